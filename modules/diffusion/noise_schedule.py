"""Noise schedules: how much signal is left at each timestep.

A schedule is data: float64 tensors made once. Respacing returns another schedule, which remembers the timesteps that
the network was trained on, so that samplers, losses and networks all speak of the same t.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modules.diffusion.tables import Levels, Tables


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
    def first_timestep(self) -> int:
        """The timestep nearest to the data."""
        return int(self.timesteps[0])

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
    def log_betas(self) -> Tensor:
        """(N,) natural log of beta."""
        return self.betas.log()

    @cached_property
    def fixed_large_log_variance(self) -> Tensor:
        """(N,) log of beta; the first step has beta-tilde of the second (Improved DDPM, code)."""
        return torch.cat([self.posterior_log_variance[:1], self.betas[1:].log()])

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
        """(N,) sqrt(alpha_bar): the standard deviation of the remaining signal, for data of unit variance."""
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

    def at(self, t: Tensor, *, like: Tensor) -> Levels:
        """The noise levels of a batch, shaped to broadcast over ``like``: ``at.signal * x0 + at.noise * noise``.

        Args:
            t: (B,) int64 original timesteps.
            like: (B, ...) a sample that the levels will multiply.

        Returns:
            Each (B, 1, ..., 1) on ``like``'s device, in its dtype, but float32 at least: half precision cannot hold
            them. They come from tables that the schedule keeps on the device.

        Raises:
            ValueError: if a t is not one of ``timesteps``. The check reads t, so on an accelerator, where that would
                wait for the device, such a t gives NaN instead.
        """
        table = self._tables.kept("levels", self._levels, like.device, working_dtype(like))
        return Levels(*_broadcast(self._pick(table, t), like).unbind())

    def lookup(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """As ``at``, but of any values (N,) float64, one for each step; they are copied to the device at each call."""
        table = self._tables.made(values[None], like.device, working_dtype(like))
        return _broadcast(self._pick(table, t), like)[0]

    def kept_lookup(self, key: Hashable, values: Callable[[], Tensor], t: Tensor) -> Tensor:
        """One of the values for each t, (B,) float32 on t's device; errors as in ``at``.

        Args:
            key: a name of the values. Other values need another name.
            values: makes them, (N,) float64; called at the first use of this name on t's device.
            t: (B,) int64 original timesteps.
        """
        return self._pick(self._tables.kept(key, lambda: values()[None], t.device, torch.float32), t)[0]

    def __reduce__(self) -> tuple[type[NoiseSchedule], tuple[Tensor, Tensor]]:
        """Copies and pickles have the two tensors only, and derive the rest anew."""
        return NoiseSchedule, (self.alpha_bar, self.timesteps)

    @cached_property
    def _tables(self) -> Tables:
        return Tables(self.timesteps)

    def _levels(self) -> Tensor:
        return torch.stack([getattr(self, name) for name in Levels._fields])

    def _pick(self, table: Tensor, t: Tensor) -> Tensor:
        """(K, B) the columns of a table."""
        if t.device.type == "cpu":
            self._check(t)
        return table.index_select(1, t.to(table.device))

    def _check(self, t: Tensor) -> None:
        if not self._tables.known.issuperset(t.tolist()):
            raise ValueError(f"timesteps {t.tolist()} are not all in the schedule's {self.num_steps} timesteps")


def _broadcast(rows: Tensor, like: Tensor) -> Tensor:
    """(K, B) -> (K, B, 1, ..., 1), each row to broadcast over ``like``."""
    return rows.reshape(*rows.shape, *([1] * (like.ndim - 1)))


def working_dtype(x: Tensor) -> torch.dtype:
    """x's dtype, but float32 where that is a half precision."""
    return torch.promote_types(x.dtype, torch.float32)
