"""Takes the seam out of a filled hole: the drawn part is shifted smoothly so that it meets the known pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 0.25
"""Neighbours that differ by more (of a range of 2: 32 of 255 levels) are an edge of something drawn, not a seam."""
SWEEPS = 16


def without_seam(drawn: Tensor, known: Tensor, keep: Tensor, edge: float = EDGE) -> Tensor:
    """The drawn images with a smooth correction in the hole, which makes them equal to their known neighbours.

    This is the membrane form of Poisson image editing (Perez, Gangnet and Blake 2003, equation 5): the correction is
    harmonic, and at the hole's border it is the difference between the known and the drawn pixel. A difference above
    `edge` is left out: something begins or ends there, and its colour must not bleed into the hole.

    Args:
        drawn: (B, C, H, W) in [-1, 1], equal to `known` where `keep` is 1.
        known: (B, C, H, W) in [-1, 1]; of any finite value where `keep` is 0.
        keep: (B, 1, H, W), 1 where a pixel is known and 0 where it was drawn.

    Returns:
        (B, C, H, W) in [-1, 1]; where `keep` is 1, `drawn` to the bit.
    """
    hole = 1 - keep
    missing = _neighbours(known) - drawn
    smooth = _neighbours(keep) * (missing.abs().amax(dim=2, keepdim=True) <= edge)
    count = smooth.sum(dim=0) * hole
    border = (missing * smooth).sum(dim=0) / count.clamp(min=1)
    return torch.where(hole > 0, (drawn + membrane(border, count > 0)).clamp(-1, 1), drawn)


def membrane(values: Tensor, fixed: Tensor, sweeps: int = SWEEPS) -> Tensor:
    """The harmonic interpolation of scattered values: Laplace's equation, without flux through the image's sides.

    Cascadic multigrid: the solution of half the size is the start of `sweeps` Jacobi steps, so that the cost is linear
    in the number of pixels.

    Args:
        values: (B, C, H, W), read where `fixed`.
        fixed: (B, 1, H, W) bool.

    Returns:
        (B, C, H, W), `values` where `fixed`; 0 everywhere for an image without a fixed value.
    """
    given = torch.where(fixed, values, torch.zeros_like(values))
    size = values.shape[-2:]
    if max(size) == 1:
        return given
    share = F.avg_pool2d(fixed.to(values.dtype), 2, ceil_mode=True, count_include_pad=False)
    means = F.avg_pool2d(given, 2, ceil_mode=True, count_include_pad=False) / share.clamp(min=0.25)
    found = F.interpolate(membrane(means, share > 0, sweeps), size, mode="bilinear", align_corners=False)
    degree = _neighbours(torch.ones_like(given[:1, :1])).sum(dim=0)
    for _ in range(sweeps):
        found = torch.where(fixed, given, _neighbours(found).sum(dim=0) / degree)
    return found


def _neighbours(images: Tensor) -> Tensor:
    """(4, B, C, H, W): the pixel to the left, to the right, above and below; 0 beyond the image's sides."""
    padded = F.pad(images, (1, 1, 1, 1))
    rows, columns = slice(1, -1), slice(1, -1)
    left, right = padded[..., rows, :-2], padded[..., rows, 2:]
    return torch.stack([left, right, padded[..., :-2, columns], padded[..., 2:, columns]])
