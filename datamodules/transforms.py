"""Pixels: uint8 to [-1, 1] and back, antialiased resizing, crops. All on batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modules.errors import InputError


def to_float(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]; 0 and 255 map to -1 and 1 exactly.

    The result keeps the pixels' channels-last memory layout, which convolutions on a CPU prefer.
    """
    return normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def normalised(images: Tensor) -> Tensor:
    """uint8 of any shape, on any device, to float32 in [-1, 1], in the same memory layout."""
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] to (B, H, W, 3) uint8, rounded and clamped; the inverse of `to_float`."""
    pixels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def resize(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) to (B, 3, size, size) by antialiased bicubic interpolation, kept within [-1, 1].

    Antialiased, because resizing is part of what a model learns and of what a Frechet distance measures.
    """
    if images.shape[-2:] == (size, size):
        return images
    resized = functional.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)


def random_crop(images: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """One (size, size) window of each of (B, 3, H, W), placed uniformly and independently: (B, 3, size, size).

    Raises:
        InputError: the crop is larger than the image.
    """
    down, right = _room(images, size)
    tops = torch.randint(down + 1, (len(images),), generator=generator).tolist()
    lefts = torch.randint(right + 1, (len(images),), generator=generator).tolist()
    windows = [
        image[:, top : top + size, left : left + size] for image, top, left in zip(images, tops, lefts, strict=True)
    ]
    return torch.stack(windows)


def _room(images: Tensor, size: int) -> tuple[int, int]:
    height, width = images.shape[-2:]
    if size > min(height, width):
        raise InputError(f"a crop of {size} px does not fit into an image of {width} x {height} px")
    return height - size, width - size
