"""A schedule as the steps that a sampler takes, each a pair of noise levels: the one now and the next, cleaner one."""

from __future__ import annotations

import math
from typing import NamedTuple

from modules.diffusion.noise_schedule import NoiseSchedule


class Level(NamedTuple):
    """A noise level in Python floats: x_t = signal x0 + noise epsilon."""

    alpha_bar: float
    signal: float
    noise: float
    half_log_snr: float


CLEAN = Level(1.0, 1.0, 0.0, math.inf)
"""The level of the data, to which the last step goes."""


class Transition(NamedTuple):
    """One step of a trajectory, from the level ``now`` to the level ``next``.

    Attributes:
        timestep: the original timestep of ``now``, at which the denoiser is asked.
        position: of ``now`` in the schedule; 0 for the step to the data.
        before: the level that the step before came from; None at the first step.
        alpha, beta: of the forward step from ``next`` to ``now``.
        log_beta, posterior_variance, posterior_log_variance, posterior_x0_coefficient, posterior_xt_coefficient: the
            schedule's, see ``NoiseSchedule``.
    """

    timestep: int
    position: int
    before: Level | None
    now: Level
    next: Level
    alpha: float
    beta: float
    log_beta: float
    posterior_variance: float
    posterior_log_variance: float
    posterior_x0_coefficient: float
    posterior_xt_coefficient: float

    @property
    def last(self) -> bool:
        """Whether this step goes to the data."""
        return self.position == 0


def transitions(schedule: NoiseSchedule) -> list[Transition]:
    """The steps of a schedule from its noisiest level down to the data."""
    columns = (schedule.alpha_bar, schedule.signal, schedule.noise, 0.5 * schedule.log_snr)
    levels = [CLEAN, *map(Level, *(column.tolist() for column in columns))]
    befores = [*levels[2:], None]
    coefficients = (
        schedule.alphas,
        schedule.betas,
        schedule.log_betas,
        schedule.posterior_variance,
        schedule.posterior_log_variance,
        schedule.posterior_x0_coefficient,
        schedule.posterior_xt_coefficient,
    )
    rows = zip(*(column.tolist() for column in coefficients), strict=True)
    pairs = zip(schedule.timesteps.tolist(), befores, levels[1:], levels, rows, strict=False)
    steps = [
        Transition(timestep, position, before, now, cleaner, *row)
        for position, (timestep, before, now, cleaner, row) in enumerate(pairs)
    ]
    return steps[::-1]
