"""The comparison shows the same caption in each column; curves come back from event files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.errors import InputError
from eval.figures.comparison import CELL, comparison
from eval.figures.curves import plot_curves, read_curves
from eval.samples.folder import write_samples


def plain_folder(path: Path, values: list[int], captions: list[str], per_caption: int = 1):
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).clone()
    images[:, 0] = 255
    records = [
        {"caption": captions[k // per_caption], "caption_index": k // per_caption, "sample_index": k % per_caption,
         "condition": "real"}
        for k in range(len(values))
    ]  # fmt: skip
    return write_samples(path, images, records)


def places(figure: Image.Image, value: int) -> list[int]:
    """Top and left of the square of one colour; [] if it is not shown."""
    found = np.argwhere((np.asarray(figure) == (255, value, value)).all(-1))
    return found.min(0).tolist() if len(found) >= CELL * CELL else []


def test_rows_are_captions_and_columns_conditions(tmp_path: Path):
    one = plain_folder(tmp_path / "one", [10, 20, 30], ["a", "b", "c"])
    other = plain_folder(tmp_path / "other", [40, 50, 60], ["c", "a", "d"])  # in another order
    figure = comparison({"first": one, "second": other})
    a, c = (places(figure, 10), places(figure, 50)), (places(figure, 30), places(figure, 40))
    for left, right in (a, c):
        assert left[0] == right[0] and left[1] < right[1]
    assert c[0][0] - a[0][0] >= CELL and a[0][1] == c[0][1]
    assert not places(figure, 20) and not places(figure, 60)  # captions that only one of them has


def test_number_of_captions_and_sample(tmp_path: Path):
    one = plain_folder(tmp_path / "one", [10, 20, 30, 40], ["a", "b"], per_caption=2)
    figure = comparison({"first": one}, captions=1, sample=1)
    assert places(figure, 20) and not any(places(figure, value) for value in (10, 30, 40))


def test_nothing_in_common(tmp_path: Path):
    one, other = plain_folder(tmp_path / "1", [1, 2], ["a", "b"]), plain_folder(tmp_path / "2", [1, 2], ["c", "d"])
    with pytest.raises(InputError, match="no caption in common"):
        comparison({"first": one, "second": other})


def test_curves(tmp_path: Path):
    from torch.utils.tensorboard import SummaryWriter

    assert read_curves(tmp_path) == {}
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
        writer.add_scalar("val/accuracy/shape", 0.75, 4)
    with SummaryWriter(str(tmp_path)) as writer:  # resumed: a second file, which repeats a step
        writer.add_scalar("train/loss", 0.125, 4)
        writer.add_scalar("train/loss", 0.0625, 5)
    curves = read_curves(tmp_path)
    assert curves["train/loss"][0] == [0, 1, 2, 3, 4, 5]
    assert curves["train/loss"][1] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 8, 1 / 16])
    assert curves["val/accuracy/shape"] == ([4], [0.75])


def test_plots():
    loss_curve = ([0, 1, 2], [3.0, 2.0, 1.0])
    curves = {"train/loss": loss_curve, "val/accuracy/shape": ([2], [0.5]), "lr": ([0, 1], [1.0, 1.0])}
    both, loss = plot_curves("clip", curves), plot_curves("clip", {"train/loss": loss_curve})
    assert both is not None and loss is not None
    sizes = [Image.open(io.BytesIO(plot)).size for plot in (both, loss)]
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] == 2 * sizes[1][1]  # two panels, one panel
    assert plot_curves("clip", {"lr": curves["lr"]}) is None
    assert plot_curves("clip", {"train/loss": ([0, 1], [0.5, -0.5])}) is not None  # no logarithm of that
