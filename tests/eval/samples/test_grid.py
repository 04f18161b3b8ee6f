"""The grid: where each sample lands, and that captions stay inside their cell."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from eval.samples.grid import CELL, caption_grid, wrap


def colours(grid: Image.Image) -> set[tuple[int, ...]]:
    counts = grid.getcolors(1 << 24) or []
    return {colour for count, colour in counts if count > CELL * CELL // 2}


def plain(*values: int) -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), (value, 0, 255 - value)) for value in values]


def test_rows_hold_one_caption():
    grid = np.asarray(caption_grid(plain(10, 60, 110, 160), ["a", "b", "a", "b"], [0, 1, 0, 1]))
    place = {v: np.argwhere((grid == (v, 0, 255 - v)).all(-1)).min(0) for v in (10, 60, 110, 160)}
    assert place[10][0] == place[110][0] and place[60][0] == place[160][0]  # one row each
    assert place[10][1] < place[110][1]
    assert (
        place[10][0] != place[60][0] or place[60][1] > place[110][1]
    )  # the other caption stands below or to the right


def test_every_sample_is_enlarged_and_shown():
    values = list(range(0, 200, 20))
    grid = caption_grid(plain(*values), ["many"] * 10, [0] * 10)  # ten samples: the row goes on below
    assert colours(grid) >= {(v, 0, 255 - v) for v in values}


def test_captions_are_printed():
    blank = caption_grid(plain(0), [""], [0])
    written = caption_grid(plain(0), ["a small red circle"], [0])
    assert (np.asarray(written) == 0).all(-1).sum() > (np.asarray(blank) == 0).all(-1).sum() + 50


def test_only_the_first_captions_are_shown():
    grid = caption_grid(plain(10, 60, 110), ["a", "b", "c"], [0, 1, 2], max_captions=2)
    assert (110, 0, 145) not in colours(grid) and (60, 0, 195) in colours(grid)


@pytest.mark.parametrize("text", ["a bb ccc dddd", "abcdefghijkl", "ab abcdefghijkl cd", "", "  x  "])
def test_wrap_keeps_the_width_and_the_letters(text: str):
    lines = wrap(text, 5, len)
    assert all(len(line) <= 5 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wrap_fills_lines():
    assert wrap("a bb ccc dddd", 5, len) == ["a bb", "ccc", "dddd"]
    assert wrap("abcdefgh", 5, len) == ["abcde", "fgh"]
