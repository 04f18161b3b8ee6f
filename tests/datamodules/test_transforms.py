"""Pixels in and out of [-1, 1], resizing and crops."""

import numpy as np
import pytest
import torch

from datamodules.transforms import random_crop, resize, to_float, to_uint8
from modules.errors import InputError


def test_every_pixel_value_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = to_float(pixels)
    assert images.shape == (1, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() == 1
    assert images[0, 0, 8, 0] == pytest.approx(128 / 127.5 - 1, abs=1e-7)
    np.testing.assert_array_equal(to_uint8(images), pixels)


def test_colour_channels_and_axes_stay_in_place():
    pixels = np.zeros((1, 4, 5, 3), np.uint8)
    pixels[0, 1, 2, 0] = 255
    assert (to_float(pixels) == 1).nonzero().tolist() == [[0, 0, 1, 2]]


def test_out_of_range_values_are_clamped_not_wrapped():
    assert to_uint8(torch.tensor([-3.0, 1.5]).view(1, 1, 1, 2).expand(1, 3, 1, 2))[0, 0, :, 0].tolist() == [0, 255]


def test_downsizing_is_antialiased():
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).div(4).clamp(-1, 1)
    small = resize(noise, 16)
    assert small.shape == (1, 3, 16, 16)
    assert small.std() < 0.25 * noise.std()  # The mean of 8 x 8 pixels and more, not a look at a few of them.
    assert resize(noise, 128) is noise


def test_resize_keeps_constants_and_range():
    assert torch.allclose(resize(torch.full((1, 3, 20, 30), 0.3), 16), torch.tensor(0.3), atol=1e-5)
    assert resize(torch.randn(1, 3, 8, 8).sign(), 32).abs().max() <= 1


def test_random_crops_reach_every_place_and_follow_the_generator():
    images = torch.arange(16.0).view(1, 1, 4, 4).expand(400, 3, 4, 4)
    crops = random_crop(images, 3, torch.Generator().manual_seed(0))
    assert crops.shape == (400, 3, 3, 3)
    assert set(crops[:, 0, 0, 0].tolist()) == {0, 1, 4, 5}
    assert torch.equal(crops[:, :, 0, 0] + 5, crops[:, :, 1, 1])
    assert torch.equal(crops, random_crop(images, 3, torch.Generator().manual_seed(0)))


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match="9 px does not fit into an image of 8 x 12 px"):
        random_crop(torch.zeros(1, 3, 12, 8), 9)
