"""Blends along great circles (unCLIP, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.placement.exact import exact, float64_device


def slerp(a: Tensor, b: Tensor, theta: float | Tensor) -> Tensor:
    """From a (theta = 0) to b (theta = 1) at constant angular speed, the norm going linearly from one to the other.

    Every row of the batch is one vector, whatever its further dimensions. Parallel vectors blend in norm only; between
    antiparallel ones, where no great circle is the shortest, a fixed one is taken; a zero vector has no direction, so
    the other one's is kept. Both ends are exact.

    Args:
        a, b: (B, ...) of one shape and a floating-point dtype, half precision included.
        theta: in [0, 1]; one number, or (B,).

    Returns:
        (B, ...) in the dtype that a and b promote to.

    Raises:
        ValueError: for theta outside [0, 1], other shapes, or integers.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"slerp blends two batches of one shape (B, ...), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise ValueError(f"slerp wants floating-point vectors, got {a.dtype} and {b.dtype}")
    number = exact(theta) if isinstance(theta, Tensor) else torch.tensor(theta, dtype=torch.float64)
    share = number.to(float64_device(a.device)).expand(len(a))[:, None]
    if not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"theta must lie in [0, 1], got {theta}")
    rows_a, rows_b = exact(a.flatten(1)), exact(b.flatten(1))
    norm_a, norm_b = rows_a.norm(dim=1, keepdim=True), rows_b.norm(dim=1, keepdim=True)
    unit_a, unit_b = _unit(rows_a, norm_a, rows_b, norm_b), _unit(rows_b, norm_b, rows_a, norm_a)
    # Kahan: exact at small angles and near pi, where the arc cosine is not.
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True))
    direction = (share * angle).cos() * unit_a + (share * angle).sin() * _perpendicular(unit_a, unit_b)
    blend = ((1 - share) * norm_a + share * norm_b) * direction
    dtype = torch.promote_types(a.dtype, b.dtype)
    blend = torch.where(share == 0, rows_a, torch.where(share == 1, rows_b, blend))
    return blend.to(a.device, dtype).reshape(a.shape)


def _unit(rows: Tensor, norm: Tensor, other: Tensor, other_norm: Tensor) -> Tensor:
    """Directions; a zero row takes the other's."""
    own, its = rows / norm.clamp(min=1e-300), other / other_norm.clamp(min=1e-300)
    return torch.where(norm > 0, own, its)


def _perpendicular(unit_a: Tensor, unit_b: Tensor) -> Tensor:
    """The direction at a right angle to a on the side of b; where b has no side, always the same one."""
    rest = unit_b - (unit_a * unit_b).sum(dim=1, keepdim=True) * unit_a
    size = rest.norm(dim=1, keepdim=True)
    # The axis that a points along least is never parallel to it.
    axis = torch.zeros_like(unit_a).scatter_(1, unit_a.abs().argmin(dim=1, keepdim=True), 1.0)
    spare = axis - (unit_a * axis).sum(dim=1, keepdim=True) * unit_a
    spare = spare / spare.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return torch.where(size > 1e-12, rest / size.clamp(min=1e-300), spare)
