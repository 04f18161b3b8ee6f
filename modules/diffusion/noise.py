"""Noise that belongs to an image, not to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = Sequence[torch.Generator]


def randn_per_image(
    generators: Generators, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise (B, ...), row i from generator i alone.

    Args:
        generators: B of them; a CPU generator gives the same noise whatever the device.
        shape: (B, ...).
        device: where the noise goes.
        dtype: float32 and float64 draw different numbers from the same seed; half precisions are rounded float32.

    Raises:
        ValueError: if there is not one generator per image.
    """
    if len(generators) != shape[0]:
        raise ValueError(f"want one generator per image: {shape[0]} images, {len(generators)} generators")
    drawn = torch.promote_types(dtype, torch.float32)
    rows = [torch.randn(tuple(shape[1:]), generator=g, device=g.device, dtype=drawn) for g in generators]
    return torch.stack(rows).to(device=device, dtype=dtype)
