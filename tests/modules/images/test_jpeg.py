"""JPEG on tensors is what libjpeg makes of the same image."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from modules.images.jpeg import jpeg


def photo(height=40, width=52, seed=0):
    """A smooth coloured image with an edge: (H, W, 3) uint8. Its sides are no multiples of 16."""
    y, x = np.mgrid[0:height, 0:width] / 20
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [127 + 90 * np.sin(2 * x + k) * np.cos(y * (k + 1) / 2 + p) for k, p in enumerate(phases)]
    image = np.stack(waves, axis=2)
    image[height // 3 :, : width // 3] = (200, 40, 90)
    return image.astype(np.uint8)


def libjpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).astype(float)


def to_tensor(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def test_it_is_libjpegs():
    """Each image with its own quality; the rest is libjpeg's integer arithmetic and upsampling."""
    images, qualities = [photo(seed=k) for k in range(4)], [10, 45, 80, 95]
    out = (jpeg(to_tensor(*images), torch.tensor(qualities)) + 1) * 127.5
    for k, quality in enumerate(qualities):
        ours, theirs = out[k].permute(1, 2, 0).numpy(), libjpeg(images[k], quality)
        difference, damage = np.abs(ours - theirs).mean(), np.abs(theirs - images[k]).mean()
        assert difference < min(0.9, 0.45 * damage), quality  # in levels of 255
        assert np.abs(ours - images[k]).mean() == pytest.approx(damage, rel=0.15)


def test_it_stays_on_the_grid_and_changes_no_argument():
    images = to_tensor(photo())
    before = images.clone()
    out = jpeg(images, torch.tensor([60]))
    levels = (out + 1) * 127.5
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert (levels - levels.round()).abs().max() < 1e-4
    assert out.abs().max() <= 1
