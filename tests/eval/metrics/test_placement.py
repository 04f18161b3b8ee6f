"""Where an object lies, by its pixels."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from eval.metrics.placement import centres, same_place


def picture(x: int, y: int, size: int = 32, background=(0.9, 0.9, 0.9), colour=(0.6, -0.6, -0.6)) -> torch.Tensor:
    image = torch.tensor(background)[:, None, None].repeat(1, size, size)
    image[:, y : y + 8, x : x + 8] = torch.tensor(colour)[:, None, None]
    return image


@pytest.mark.parametrize("background", [(0.9, 0.9, 0.9), (-0.9, -0.9, -0.9), (0.6, 0.4, 0.0)])
def test_the_centre_is_that_of_the_object(background):
    images = torch.stack([picture(12, 12, background=background), picture(20, 4, background=background)])
    assert_close(centres(images), torch.tensor([[0.0, 0.0], [0.5, -0.5]]))


def test_a_moved_object_is_not_in_the_same_place():
    here = torch.stack([picture(12, 12)] * 3)
    there = torch.stack([picture(13, 12), picture(12, 16), picture(12, 12, background=(-0.9, -0.9, -0.9))])
    assert same_place(here, there).tolist() == [1.0, 0.0, 1.0]


def test_a_picture_of_one_colour_has_its_centre_in_the_middle():
    assert_close(centres(torch.full((1, 3, 8, 8), 0.3)), torch.zeros(1, 2))
