"""Samplers that add noise at every step but the last: DDPM (2006.11239) and Analytic-DPM (2201.06503)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor

from modules.diffusion.analytic import ScoreStatistics, analytic_variance
from modules.diffusion.denoiser import Denoiser
from modules.diffusion.gaussian import interpolated_log_variance
from modules.diffusion.noise import Generators
from modules.diffusion.noise_schedule import NoiseSchedule
from modules.diffusion.samplers.implicit import check_eta, towards
from modules.diffusion.samplers.loop import Denoise, Noise, OnStep, State, run
from modules.diffusion.samplers.trajectory import Transition

Variance = Literal["fixed_small", "fixed_large", "learned"]


def ddpm(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    variance: Variance = "fixed_small",
) -> Tensor:
    """Ancestral sampling (DDPM algorithm 2), its last step without noise.

    Args:
        variance: of each step: "fixed_small" beta-tilde, "fixed_large" beta, "learned" between the two by the
            denoiser's variance fraction (Improved DDPM eq. 15).

    Raises:
        ValueError: for a learned variance that the denoiser does not give; without generators, unless there is one
            step.
    """
    if variance not in ("fixed_small", "fixed_large", "learned"):
        raise ValueError(f"unknown variance {variance!r}; there are fixed_small, fixed_large and learned")
    return run(partial(ddpm_step, variance=variance), denoiser, schedule, x_T, generators, on_step)


def ddpm_step(
    state: State, transition: Transition, denoise: Denoise, noise: Noise, *, variance: Variance = "fixed_small"
) -> State:
    """A draw from p(x_{t-1} | x_t), the posterior at the predicted x0 (DDPM eq. 7); its mean at the last step."""
    prediction = denoise(state.x)
    mean = transition.posterior_x0_coefficient * prediction.x0 + transition.posterior_xt_coefficient * state.x
    if transition.last:
        return State(mean, prediction.x0)
    if variance == "learned":
        deviation: float | Tensor = _learned_deviation(transition, prediction.variance_fraction)
    else:
        deviation = math.sqrt(transition.posterior_variance if variance == "fixed_small" else transition.beta)
    return State(mean + deviation * noise(state.x), prediction.x0)


def _learned_deviation(transition: Transition, fraction: Tensor | None) -> Tensor:
    if fraction is None:
        raise ValueError("learned variance needs a denoiser with learned sigma")
    log_variance = interpolated_log_variance(fraction, transition.posterior_log_variance, transition.log_beta)
    return (0.5 * log_variance).exp()


def analytic_dpm(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    statistics: ScoreStatistics,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    eta: float = 1.0,
) -> Tensor:
    """Analytic-DPM: each step has the variance that is optimal for its mean (Bao et al. theorem 1).

    Args:
        statistics: the mean squared epsilon at every timestep of the schedule, from ``estimate_statistics``.
        eta: 1 for the DDPM form, 0 for the DDIM form (whose steps have noise too), between for those in between.

    Raises:
        ValueError: if eta is outside [0, 1]; if the statistics lack a timestep; without generators.
    """
    check_eta(eta)
    variances = analytic_variance(schedule, statistics, eta).variance.tolist()
    step = partial(analytic_step, variances=variances, eta=eta)
    return run(step, denoiser, schedule, x_T, generators, on_step)


def analytic_step(
    state: State, transition: Transition, denoise: Denoise, noise: Noise, *, variances: Sequence[float], eta: float
) -> State:
    """The mean of DDIM's step, and noise of the optimal variance, one number for each position of the schedule."""
    prediction = denoise(state.x)
    x = towards(prediction, transition.next.alpha_bar, eta**2 * transition.posterior_variance)
    if not transition.last:
        x = x + math.sqrt(variances[transition.position]) * noise(x)
    return State(x, prediction.x0)
