"""Sums and angles in float64, on accelerators that have no float64 too."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)
"""Kinds of devices that hold no float64 tensor."""


def float64_device(device: torch.device) -> torch.device:
    """The device for float64 computations on tensors of a device: itself, or the CPU if it has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def exact(x: Tensor) -> Tensor:
    """x in float64, on its own device or on the CPU (`float64_device`). The caller brings the result back."""
    return x.to(float64_device(x.device)).to(torch.float64)
