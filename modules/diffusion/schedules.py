"""Noise schedules: how much signal is left at each timestep.

A schedule is data: float64 tensors made once. Respacing returns another schedule, which remembers the timesteps that
the network was trained on, so that samplers, losses and networks all speak of the same t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["adm", "ddim", "trailing", "leading", "log_snr"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) at N increasing timesteps (DDPM eq. 4).

    Attributes:
        alpha_bar: (N,) float64, strictly decreasing, in [0, 1); 0 only at the end (zero terminal SNR).
        timesteps: (N,) int64, strictly increasing: the timesteps of the original training schedule.

    Raises:
        ValueError: if a tensor has another shape, dtype or order.
    """

    alpha_bar: Tensor
    timesteps: Tensor

    def __post_init__(self) -> None:
        if self.alpha_bar.ndim != 1 or self.alpha_bar.shape != self.timesteps.shape or len(self.alpha_bar) == 0:
            raise ValueError(
                "alpha_bar and timesteps must be two non-empty vectors of one length, got shapes "
                f"{tuple(self.alpha_bar.shape)} and {tuple(self.timesteps.shape)}"
            )
        if self.alpha_bar.dtype != torch.float64 or self.timesteps.dtype != torch.int64:
            raise ValueError(f"want float64 and int64, got {self.alpha_bar.dtype} and {self.timesteps.dtype}")
        # Written so that NaN is refused too.
        if not bool((self.alpha_bar.diff() < 0).all() and self.alpha_bar[0] < 1 and self.alpha_bar[-1] >= 0):
            raise ValueError("alpha_bar must decrease strictly and lie in [0, 1)")
        if not bool((self.timesteps.diff() > 0).all() and self.timesteps[0] >= 0):
            raise ValueError("timesteps must increase strictly from 0 or more")

    @property
    def num_steps(self) -> int:
        """N, the number of steps of a trajectory."""
        return len(self.alpha_bar)

    @cached_property
    def alpha_bar_prev(self) -> Tensor:
        """(N,) alpha_bar one step nearer to the data; 1 before the first step."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])

    @cached_property
    def alphas(self) -> Tensor:
        """(N,) alpha_bar_t / alpha_bar_{t-1}."""
        return self.alpha_bar / self.alpha_bar_prev

    @cached_property
    def betas(self) -> Tensor:
        """(N,) variance of the forward step, 1 - alpha; over a respaced schedule, that of the longer step."""
        return 1 - self.alphas

    @cached_property
    def posterior_variance(self) -> Tensor:
        """(N,) variance of q(x_{t-1} | x_t, x_0), beta-tilde (DDPM eq. 7); 0 at the first step."""
        return self.betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """(N,) log of beta-tilde; the first step, whose variance is 0, borrows the second's (Improved DDPM, code)."""
        first = self.posterior_variance[1:2] if self.num_steps > 1 else self.betas[:1]
        return torch.cat([first, self.posterior_variance[1:]]).log()

    @cached_property
    def posterior_x0_coefficient(self) -> Tensor:
        """(N,) weight of x_0 in the posterior's mean (DDPM eq. 7)."""
        return self.alpha_bar_prev.sqrt() * self.betas / (1 - self.alpha_bar)

    @cached_property
    def posterior_xt_coefficient(self) -> Tensor:
        """(N,) weight of x_t in the posterior's mean (DDPM eq. 7)."""
        return self.alphas.sqrt() * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    @cached_property
    def signal(self) -> Tensor:
        """(N,) sqrt(alpha_bar): the standard deviation of what is left of unit-variance data."""
        return self.alpha_bar.sqrt()

    @cached_property
    def noise(self) -> Tensor:
        """(N,) sqrt(1 - alpha_bar): the noise's standard deviation."""
        return (1 - self.alpha_bar).sqrt()

    @cached_property
    def snr(self) -> Tensor:
        """(N,) alpha_bar / (1 - alpha_bar)."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @cached_property
    def log_snr(self) -> Tensor:
        """(N,) natural log of the signal-to-noise ratio; -inf at zero terminal SNR."""
        return self.alpha_bar.log() - torch.log1p(-self.alpha_bar)

    def lookup(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """One value per sample, shaped to broadcast over ``like``.

        Args:
            values: (N,) float64, one per step of this schedule.
            t: (B,) int64 original timesteps.
            like: (B, ...) the sample that the result will multiply.

        Returns:
            (B, 1, ..., 1) on ``like``'s device, in its dtype, but float32 at least: half precision cannot hold them.

        Raises:
            ValueError: if a t is not one of ``timesteps``. On an accelerator, where looking would wait for the device,
                such a t gives NaN instead.
        """
        if t.device.type == "cpu":
            self._check(t)
        # Cast first: not every accelerator has float64. An unknown t has position -1, the NaN at the end.
        padded = torch.cat([values, values.new_full((1,), math.nan)]).to(working_dtype(like)).to(like.device)
        picked = padded[self._positions.to(like.device)[t.to(like.device)]]
        return picked.reshape(-1, *([1] * (like.ndim - 1)))

    @cached_property
    def _positions(self) -> Tensor:
        """Position of each original timestep in this schedule, -1 where it has none."""
        positions = torch.full((int(self.timesteps[-1]) + 1,), -1)
        positions[self.timesteps] = torch.arange(self.num_steps)
        return positions

    def _check(self, t: Tensor) -> None:
        in_range = bool(((t >= 0) & (t < len(self._positions))).all())
        if not in_range or bool((self._positions[t] < 0).any()):
            raise ValueError(f"timesteps {t.tolist()} are not all in the schedule's {self.num_steps} timesteps")


def working_dtype(x: Tensor) -> torch.dtype:
    """x's dtype, but float32 where that is a half precision."""
    return torch.promote_types(x.dtype, torch.float32)


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
    """The same schedule, shifted and scaled so that nothing of the signal is left at its end (Lin et al. algorithm 1).

    sqrt(alpha_bar) keeps its first value and ends at exactly 0. epsilon prediction cannot be used with it.
    """
    first, last = schedule.signal[0], schedule.signal[-1]
    signal = (schedule.signal - last) * (first / (first - last))
    return NoiseSchedule(signal**2, schedule.timesteps)


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
            evenly in log-SNR (DPM-Solver 3.4).

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
    if spacing == "adm":
        return at_positions(schedule, _sections(total, [steps]))
    if spacing == "ddim":
        return at_positions(schedule, _whole_stride(total, steps))
    if spacing == "leading":
        return at_positions(schedule, range(0, steps * (total // steps), total // steps))
    if spacing == "trailing":
        return at_positions(schedule, [round(total * k / steps) - 1 for k in range(1, steps + 1)])
    if spacing == "log_snr":
        return at_positions(schedule, _even_log_snr(schedule, steps))
    raise ValueError(f"unknown spacing {spacing!r}; there are adm, ddim, trailing, leading and log_snr")


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
    positions = (log_snr[None, :] - grid[:, None]).abs().argmin(dim=1).tolist()
    if len(set(positions)) < steps:
        raise ValueError(f"{steps} steps evenly in log-SNR would repeat a timestep; take fewer or another spacing")
    return [int(p) for p in positions]
