"""A figure with headings: pictures stand where their row and column say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from eval.figures.panels import HEAD, bars, line_plot, panel, stacked
from eval.samples.grid import GAP


def square(colour: str) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def test_pictures_stand_in_their_cells():
    page = panel([[square("red"), square("blue")], [None, square("lime")]], ["a", "b"], ["one", "two"], cell=20)
    left, right = HEAD + 2 * GAP + 10, HEAD + 2 * GAP + 20 + GAP + 10
    lower = page.height - GAP - 10
    upper = lower - 20 - GAP
    assert page.getpixel((left, upper)) == (255, 0, 0)
    assert page.getpixel((right, upper)) == (0, 0, 255)
    assert page.getpixel((left, lower)) == (255, 255, 255)
    assert [page.getpixel((right + x, upper)) for x in (-11, -10, 9)] == [(255, 255, 255), (0, 0, 255), (0, 0, 255)]
    assert page.getpixel((right, lower)) == (0, 255, 0)


def test_headings_are_drawn_and_long_ones_take_room():
    short = panel([[square("red")]], ["a"], ["b"], cell=60)
    long = panel(
        [[square("red")]], ["a heading of many words that wraps"], ["a name that is far too long for it " * 3], 60
    )
    assert long.height > short.height + 20
    above = np.asarray(short)[: short.height - 60 - GAP, HEAD + 2 * GAP :]
    assert above.min() < 100


def test_rows_and_heads_must_agree():
    for rows, names in (([[None, None]], None), ([[None]], ["a", "b"])):
        with pytest.raises(ValueError, match="every row needs"):
            panel(rows, ["a"], names)


def test_stacked_pages_keep_their_pixels():
    page = stacked([square("red"), square("blue")])
    assert page.getpixel((4, 4)) == (255, 0, 0)
    assert page.getpixel((4, 8 + 2 * GAP + 4)) == (0, 0, 255)


def test_bars_are_as_long_as_their_shares_largest_first():
    image = np.asarray(bars(["a", "b"], [0.25, 0.75], cell=100))
    blue = np.array([150, 190, 235])
    lengths = [int((image[row] == blue).all(axis=1).nonzero()[0].max()) for row in (26, 58)]
    assert lengths[0] == pytest.approx(150, abs=2)
    assert lengths[1] == pytest.approx(50, abs=2)


def test_long_labels_go_on_in_further_lines():
    """The end of a label can be read: another end is another picture, and nothing reaches the right edge."""
    label = "a small green cross right of a large"
    one, other = (np.asarray(bars([f"{label} {end}"], [0.0])) for end in ("yellow circle", "purple square"))
    assert (one != other).any()
    assert (one[:, -4:] == 255).all()
    several = np.asarray(bars([f"{label} yellow circle"] * 5, [0.0] * 5))
    assert several.shape == (224, 224, 3)
    rows = (several < 128).any(axis=(1, 2))
    assert not rows[-4:].any()  # a label that would be cut off below is left out
    assert rows[:60].any()


def test_a_plot_is_a_png():
    image = Image.open(io.BytesIO(line_plot([1, 2], {"colour": [0.1, 0.9]}, "components", "accuracy")))
    assert image.format == "PNG"
    assert image.width > 400
