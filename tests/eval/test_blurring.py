"""The blur of both sides: a Gaussian of the radius, which takes away what two sets differ in at high frequencies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eval.blurring import blur_curve, blur_table, blurred, read_blur
from eval.errors import InputError
from eval.figures.plots import blur
from eval.samples.folder import SampleFolder


def test_a_point_becomes_a_gaussian():
    image = torch.zeros(1, 3, 41, 41, dtype=torch.uint8)
    image[:, :, 20, 20] = 255
    wide = blurred(image.repeat(2, 1, 1, 1) // 1, 1.0)[0, 0].double()
    distance = (torch.arange(41) - 20).double().square()
    expected = torch.exp(-(distance[:, None] + distance) / 2)
    torch.testing.assert_close(wide, (255 * expected / expected.sum()).round(), atol=1, rtol=0)
    assert torch.equal(blurred(image, 0), image)


def test_a_flat_picture_stays_as_it_is():
    flat = torch.full((2, 3, 9, 9), 77, dtype=torch.uint8)
    assert torch.equal(blurred(flat, 3.0), flat)


class Pixels:
    """Features: the pixels of the picture's middle row."""

    name, resizing = "pixels", "none"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 8, :6].float() / 255


@pytest.fixture
def folders(tmp_path):
    """Real pictures, and the same kind of pictures with a chequered noise over them."""
    made = []
    for name, noise in (("reference", 0), ("samples", 60)):
        rng, lines = np.random.default_rng(0), []
        (tmp_path / name).mkdir()
        chequers = (np.indices((16, 16)).sum(0) % 2 * 2 - 1)[..., None] * noise
        for k in range(24):
            colour = rng.integers(100, 150, (1, 1, 3))
            signs = rng.choice([-1, 1])
            pixels = (np.broadcast_to(colour, (16, 16, 3)) + signs * chequers).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
            lines.append({"file": f"{k}.png", "caption": str(k), "caption_index": k, "sample_index": 0})
        rows = [json.dumps({**line, "condition": "dalle"}) for line in lines]
        (tmp_path / name / "manifest.jsonl").write_text("\n".join(rows) + "\n")
        made.append(SampleFolder.open(tmp_path / name))
    return made


def test_the_distance_falls_where_the_blur_takes_the_difference_away(folders, tmp_path):
    reference, samples = folders
    found = blur_curve([samples], reference, Pixels(), [0, 2], draws=5)
    sharp, soft = (cell["value"] for cell in found["rows"][0]["frechet"])
    assert sharp > 0.1 and soft < 0.05 * sharp
    table = blur_table(found)
    assert table.columns == ["Frechet distance ↓", "radius 0", "radius 2"]
    assert blur(found) is not None and blur(None) is None
    assert read_blur(tmp_path) is None
    (tmp_path / "blur.json").write_text(json.dumps({"radii": [0]}))
    with pytest.raises(InputError, match="lacks rows, note"):
        read_blur(tmp_path)
