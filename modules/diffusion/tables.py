"""Values of a noise schedule by timestep, kept on each device that asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

Key = tuple[Hashable, torch.device, torch.dtype]


class Levels(NamedTuple):
    """What a schedule says at the timesteps of a batch, each (B, 1, ..., 1): see `NoiseSchedule` for what they are."""

    signal: Tensor
    noise: Tensor
    log_betas: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    posterior_x0_coefficient: Tensor
    posterior_xt_coefficient: Tensor
    fixed_large_log_variance: Tensor


class Tables:
    """Rows of values, one column for each original timestep up to the last.

    A table is made at its first use on a device and in a dtype, and kept. Training steps after the first one copy
    nothing to the device. Two threads may make the same table; both get the one that was stored first.

    Args:
        timesteps: (N,) int64, the original timesteps of a schedule. Other timesteps have the value NaN.
    """

    def __init__(self, timesteps: Tensor) -> None:
        self.timesteps = timesteps
        self.known: frozenset[int] = frozenset(timesteps.tolist())
        self._kept: dict[Key, Tensor] = {}

    def made(self, values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(K, N) float64 values -> (K, last timestep + 1) on the device. Not kept."""
        table = values.new_full((len(values), max(self.known) + 1), math.nan)
        table[:, self.timesteps] = values
        # Cast first: not every accelerator has float64.
        return table.to(dtype).to(device)

    def kept(self, key: Hashable, values: Callable[[], Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The table that has this name, as `made` from ``values()`` when it was first asked for."""
        place = (key, device, dtype)
        table = self._kept.get(place)
        if table is not None:
            return table
        table = self.made(values(), device, dtype)
        # A stand-in tensor (of FakeTensorMode, which counts memory) is of no use to a later caller.
        return self._kept.setdefault(place, table) if type(table) is Tensor else table
