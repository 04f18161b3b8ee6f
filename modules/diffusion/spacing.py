"""Trajectories of fewer steps over a schedule's noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from modules.diffusion.noise_schedule import NoiseSchedule

Spacing = Literal[
    "adm",
    "ddim",
    "trailing",
    "leading",
    "log_snr",
    "fast27",
]
"""The names of the spacings; `POSITIONS` says what they are."""


def at_positions(schedule: NoiseSchedule, positions: Sequence[int]) -> NoiseSchedule:
    """The steps of a schedule at the given increasing positions (0 to N - 1)."""
    index = torch.tensor(list(positions), dtype=torch.int64)
    return NoiseSchedule(schedule.alpha_bar[index], schedule.timesteps[index])


def respace(schedule: NoiseSchedule, steps: int | Sequence[int], spacing: Spacing = "adm") -> NoiseSchedule:
    """A strided trajectory over the same noise levels (Improved DDPM 4).

    Args:
        schedule: what the network was trained on.
        steps: how many steps to keep, 1 to N; or, for "adm", the counts of equal sections, nearest to the data first
            (GLIDE's 27 steps are [10, 10, 3, 2, 2]).
        spacing: "adm" evenly from the first timestep to the last, both kept; "ddim" a fixed whole stride from 0 that
            gives exactly that many; "leading" stride N // steps from 0; "trailing" evenly back from the last; "log_snr"
            evenly in log-SNR (DPM-Solver 3.4); "fast27" the 27 steps of GLIDE's upsampler: its sections, and two
            timesteps before the last one instead of that, for DDIM makes marks at the noisiest.

    Raises:
        ValueError: if there is no such trajectory.
    """
    total = schedule.num_steps
    if not isinstance(steps, int):
        if spacing != "adm":
            raise ValueError(f"sections of steps go with adm spacing, not {spacing}")
        return at_positions(schedule, _sections(total, steps))
    if not 1 <= steps <= total:
        raise ValueError(f"cannot take {steps} steps of a schedule of {total}")
    if spacing not in POSITIONS:
        *others, last = POSITIONS
        raise ValueError(f"unknown spacing {spacing!r}; there are {', '.join(others)} and {last}")
    positions = POSITIONS[spacing](schedule, steps)
    if len(set(positions)) < steps:
        raise ValueError(f"{steps} steps of {spacing} spacing would repeat a timestep; take fewer or another spacing")
    return at_positions(schedule, positions)


def noise_interval(schedule: NoiseSchedule, sigma_low: float, sigma_high: float) -> tuple[int, int]:
    """First and last timestep whose sigma = sqrt((1 - alpha_bar) / alpha_bar) lies in the interval (2404.07724).

    Raises:
        ValueError: if no timestep does.
    """
    sigma = schedule.snr.rsqrt()
    inside = schedule.timesteps[(sigma >= sigma_low) & (sigma <= sigma_high)]
    if len(inside) == 0:
        raise ValueError(f"no timestep has a noise level between {sigma_low} and {sigma_high}")
    return int(inside[0]), int(inside[-1])


def _sections(total: int, counts: Sequence[int]) -> list[int]:
    """ADM's space_timesteps: split the schedule into equal sections, take counts[i] evenly from section i."""
    positions: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = total // len(counts) + (1 if i < total % len(counts) else 0)
        if not 1 <= count <= size:
            raise ValueError(f"cannot take {count} steps of a section of {size}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Added up as ADM does: where a position falls half-way, k * stride would sometimes round the other way.
        at = 0.0
        for _ in range(count):
            positions.append(start + round(at))
            at += stride
        start += size
    return positions


def _whole_stride(total: int, steps: int) -> range:
    """ADM's "ddimN": the smallest whole stride that gives exactly that many steps."""
    for stride in range(1, total + 1):
        if len(range(0, total, stride)) == steps:
            return range(0, total, stride)
    raise ValueError(f"no whole stride takes exactly {steps} steps of {total}")


def _even_log_snr(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Positions nearest to an even grid in log-SNR."""
    log_snr = schedule.log_snr
    if not bool(torch.isfinite(log_snr).all()):
        raise ValueError("log-SNR spacing needs a finite log-SNR; this schedule ends at zero SNR")
    ends = (float(log_snr[-1]), float(log_snr[0])) if steps > 1 else (float(log_snr[-1]), float(log_snr[-1]))
    grid = torch.linspace(ends[1], ends[0], steps, dtype=torch.float64)
    positions = [int((log_snr - level).abs().argmin()) for level in grid]  # One at a time: N x steps may be too many.
    if len(set(positions)) < steps:
        raise ValueError(f"{steps} steps evenly in log-SNR would repeat a timestep; take fewer or another spacing")
    return positions


def _trailing(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Evenly back from the last position, which is kept."""
    return [round(schedule.num_steps * k / steps) - 1 for k in range(1, steps + 1)]


def _leading(schedule: NoiseSchedule, steps: int) -> range:
    """Every (N // steps)-th position, from 0."""
    stride = schedule.num_steps // steps
    return range(0, steps * stride, stride)


FAST27 = (10, 10, 3, 2, 2)
"""GLIDE's sections, nearest to the data first."""


def _fast27(schedule: NoiseSchedule, steps: int) -> list[int]:
    """GLIDE's fast27."""
    if steps != sum(FAST27):
        raise ValueError(f"fast27 spacing has {sum(FAST27)} steps, not {steps}: for another number take spacing adm")
    return [*_sections(schedule.num_steps, FAST27)[:-1], schedule.num_steps - 3]


POSITIONS: dict[Spacing, Callable[[NoiseSchedule, int], Sequence[int]]] = {
    "adm": lambda schedule, steps: _sections(schedule.num_steps, [steps]),
    "ddim": lambda schedule, steps: _whole_stride(schedule.num_steps, steps),
    "trailing": _trailing,
    "leading": _leading,
    "log_snr": _even_log_snr,
    "fast27": _fast27,
}
"""Spacing -> the increasing positions (0 to N - 1) of a trajectory of that many steps; `respace` says what each is."""
