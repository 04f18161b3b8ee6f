"""The schedules that networks are trained on. `NoiseSchedule` and the spacings can be imported from here too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from modules.diffusion.noise_schedule import NoiseSchedule, working_dtype
from modules.diffusion.spacing import Spacing, at_positions, noise_interval, respace
from modules.diffusion.tables import Levels

__all__ = [
    "SCHEDULES",
    "Levels",
    "NoiseSchedule",
    "ScheduleName",
    "Spacing",
    "at_positions",
    "cosine",
    "from_betas",
    "linear",
    "noise_interval",
    "rescale_zero_terminal_snr",
    "respace",
    "working_dtype",
]

ScheduleName = Literal[
    "cosine",
    "linear",
]
"""The names of the schedules; `SCHEDULES` says what they are."""


def from_betas(betas: Tensor) -> NoiseSchedule:
    """The schedule of T forward variances, (T,) in (0, 1], at timesteps 0 to T - 1 (DDPM eq. 2 and 4)."""
    alpha_bar = torch.cumprod(1 - betas.to(torch.float64), dim=0)
    return NoiseSchedule(alpha_bar, torch.arange(len(alpha_bar)))


def linear(num_steps: int = 1000) -> NoiseSchedule:
    """Linear betas, 1e-4 to 0.02 at 1,000 steps, scaled by 1000 / num_steps elsewhere (DDPM 4; ADM's scaling).

    Raises:
        ValueError: if num_steps is 20 or less, where the last beta would reach 1.
    """
    scale = 1000 / num_steps
    if scale * 0.02 >= 1:
        raise ValueError(f"a linear schedule needs more than 20 steps, got {num_steps}")
    return from_betas(torch.linspace(scale * 1e-4, scale * 0.02, num_steps, dtype=torch.float64))


def cosine(num_steps: int = 1000, max_beta: float = 0.999) -> NoiseSchedule:
    """alpha_bar follows a squared cosine, with betas clipped at max_beta (Improved DDPM eq. 17)."""
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def rescale_zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The same schedule, shifted and scaled so that no signal is left at its end (Lin et al. algorithm 1).

    sqrt(alpha_bar) keeps its first value and ends at exactly 0. epsilon prediction cannot be used with it.
    """
    first, last = schedule.signal[0], schedule.signal[-1]
    signal = (schedule.signal - last) * (first / (first - last))
    return NoiseSchedule(signal**2, schedule.timesteps)


SCHEDULES: dict[ScheduleName, Callable[[int], NoiseSchedule]] = {
    "cosine": cosine,
    "linear": linear,
}
"""Name of `Objective.schedule` -> the schedule of that many steps."""
