"""What the upsamplers' conditions go through: the blur of the formula, and crops that are windows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.degradations import gaussian_blur, random_crop


@pytest.mark.parametrize(("size", "sigma"), [(3, 0.6), (5, 1.1)])
def test_the_blur_is_the_gaussian_kernel(size, sigma):
    weights = torch.tensor([math.exp(-((k - size // 2) ** 2) / (2 * sigma**2)) for k in range(size)])
    weights = weights / weights.sum()
    images = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = images.clone()
    padded = F.pad(images, [size // 2] * 4, mode="reflect")
    kernel = (weights[:, None] * weights).expand(3, 1, -1, -1)
    expected = F.conv2d(padded, kernel, groups=3)
    assert_close(gaussian_blur(images, size, sigma), expected, atol=1e-5, rtol=1e-4)
    if size == 3:
        assert torch.equal(gaussian_blur(images), gaussian_blur(images, 3, 0.6))  # the paper's is the default
    assert torch.equal(images, before)


def coordinates(count, height, width):
    """Images whose pixels say where they are, and in which image."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.stack([y, x, torch.full_like(y, k)]) for k in range(count)]).float()


@pytest.mark.parametrize("multiple", [1, 4])
def test_every_crop_is_a_window_of_its_own_image(multiple):
    images = coordinates(400, 16, 24)
    crops = random_crop(images, 8, multiple, torch.Generator().manual_seed(0))
    corners = crops[:, :2, 0, 0]
    assert torch.equal(crops, coordinates(400, 8, 8) + F.pad(corners, (0, 1))[:, :, None, None])
    assert (corners % multiple == 0).all()
    for axis, side in enumerate((16, 24)):
        places, counts = corners[:, axis].unique(return_counts=True)
        assert places.tolist() == list(range(0, side - 8 + 1, multiple))  # the last one too
        assert counts.min() > 0.4 * 400 / len(places)
    assert len(corners.unique(dim=0)) > max(len(corners[:, 0].unique()), len(corners[:, 1].unique()))


def test_the_window_of_a_shrunk_image_is_the_shrunk_window():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    crops = [
        random_crop(x, side, unit, torch.Generator().manual_seed(5))
        for x, side, unit in ((images, 8, 4), (F.avg_pool2d(images, 4), 2, 1))
    ]
    assert_close(F.avg_pool2d(crops[0], 4), crops[1])


def test_the_whole_image_is_a_window():
    images = coordinates(2, 8, 8)
    assert torch.equal(random_crop(images, 8, 4, torch.Generator()), images)


def test_a_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="a crop of 16 pixels does not fit into 8 x 24"):
        random_crop(torch.zeros(1, 3, 8, 24), 16, 4, torch.Generator())
