"""A CLIP's resizing is its config's: open_clip's own transform on pictures is the oracle."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from modules.clip.preprocessing import Preprocessing
from modules.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def picture(wide: int, high: int) -> Image.Image:
    # Of moderate contrast: Pillow cuts what overshoots 0 and 255 after each of its two passes, a tensor once.
    pixels = np.random.default_rng(0).integers(80, 176, (high, wide, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(40, 40), (61, 40), (40, 57), (16, 16), (13, 20), (16, 48)])
def test_it_is_open_clips_to_the_rounding_of_pictures(mode: str, interpolation: str, shape: tuple[int, int]):
    image = picture(*shape)
    oracle = image_transform(
        16, False, mean=MEAN, std=STD, interpolation=interpolation, resize_mode=mode, fill_color=51
    )(image)
    found = Preprocessing((16, 16), MEAN, STD, interpolation, mode, 51)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    ours = found.resized(x)[0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    assert ((oracle * std + mean) - ours).abs().max() < 1.01 / 255  # one step: Pillow rounds after each of two passes
    assert ((oracle * std + mean) - ours).abs().mean() < 0.4 / 255
    signed = found.resized(x * 2 - 1, low=-1)[0]
    assert (signed - (ours * 2 - 1)).abs().max() < 1e-5


def test_square_pictures_and_the_usual_config_are_as_ever():
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = torch.nn.functional.interpolate(x, (16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    assert torch.equal(Preprocessing((16, 16), MEAN, STD).resized(x, low=-1), before)


def test_a_models_own_config_is_taken():
    cfg = {"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(**cfg, text_cfg=text)
    set_cfg = {"size": (16, 16), "mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    model.visual.preprocess_cfg = {**set_cfg, "fill_color": 0}
    assert Preprocessing.of(model) == Preprocessing((16, 16), MEAN, STD, "bilinear", "squash")


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match="resize_mode is 'fill'; open_clip has shortest, longest, squash"):
        Preprocessing((16, 16), MEAN, STD, resize_mode="fill")
