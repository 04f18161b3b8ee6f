"""Where the object lies in a picture, by its pixels alone, without a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLD = 0.35  # of the largest difference from the background: above it, a pixel belongs to the object


def centres(images: Tensor) -> Tensor:
    """The centre of all pixels that differ from the background.

    Args:
        images: (N, 3, H, W) in [-1, 1]; the background is what lies along the border.

    Returns:
        (N, 2) float32: x to the right and y downwards, both in [-1, 1]; 0 for a picture of one colour.
    """
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], dim=-1)
    background = border.median(dim=-1).values[..., None, None]
    difference = (images - background).abs().sum(dim=1)
    largest = difference.flatten(1).amax(dim=1)[:, None, None]
    inside = ((difference > THRESHOLD * largest) & (largest > 0)).float()
    weight = inside.flatten(1).sum(dim=1).clamp(min=1)
    x, y = (((torch.arange(side) + 0.5) * 2 / side - 1).to(images) for side in images.shape[:1:-1])
    return torch.stack(
        [(inside * x).flatten(1).sum(dim=1) / weight, (inside * y[:, None]).flatten(1).sum(dim=1) / weight], dim=1
    )


def same_place(images: Tensor, others: Tensor, distance: float = 0.15) -> Tensor:
    """(N,) float32: 1 where the objects' centres lie within `distance` half frames of each other."""
    return ((centres(images) - centres(others)).norm(dim=1) <= distance).float()
