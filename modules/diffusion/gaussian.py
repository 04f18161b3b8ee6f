"""The forward process and its algebra: q(x_t | x_0), q(x_{t-1} | x_t, x_0), and what a network may predict.

Everywhere x0, x_t, noise and outputs are (B, ...) of one shape, t is (B,) int64 original timesteps, and
x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) epsilon.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from modules.diffusion.noise_schedule import NoiseSchedule

Parameterization = Literal["x0", "epsilon", "v"]


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean (B, ...); variance and log_variance broadcast over it."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t given x0 and standard normal noise (DDPM eq. 4)."""
    at = schedule.at(t, like=x0)
    return at.signal * x0 + at.noise * noise


def posterior(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Gaussian:
    """q(x_{t-1} | x_t, x0) (DDPM eq. 6 and 7); "t - 1" is the schedule's previous step.

    At the first step the variance is 0 and the mean x0; log_variance there is the second step's, so that it is finite.
    """
    at = schedule.at(t, like=x_t)
    mean = at.posterior_x0_coefficient * x0 + at.posterior_xt_coefficient * x_t
    return Gaussian(mean, at.posterior_variance, at.posterior_log_variance)


def learned_log_variance(schedule: NoiseSchedule, fraction: Tensor, t: Tensor) -> Tensor:
    """Log variance interpolated between those of beta-tilde (fraction 0) and beta (fraction 1) (Improved DDPM eq. 15).

    The fraction is not clipped: a network may go beyond both ends.
    """
    at = schedule.at(t, like=fraction)
    return interpolated_log_variance(fraction, at.posterior_log_variance, at.log_betas)


def interpolated_log_variance(fraction: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Between the log variances low (fraction 0) and high (fraction 1) (Improved DDPM eq. 15)."""
    return fraction * high + (1 - fraction) * low


def x0_from_epsilon(schedule: NoiseSchedule, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """x0 = (x_t - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar) (DDPM eq. 15); not defined at zero SNR."""
    at = schedule.at(t, like=x_t)
    return (x_t - at.noise * epsilon) / at.signal


def epsilon_from_x0(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """epsilon = (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar) (DDPM eq. 4, solved for the noise)."""
    at = schedule.at(t, like=x_t)
    return (x_t - at.signal * x0) / at.noise


def velocity(schedule: NoiseSchedule, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0 (Salimans and Ho, progressive distillation, appendix D)."""
    at = schedule.at(t, like=x0)
    return at.signal * epsilon - at.noise * x0


def x0_from_v(schedule: NoiseSchedule, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v; defined at zero SNR too (Salimans and Ho, appendix D)."""
    at = schedule.at(t, like=x_t)
    return at.signal * x_t - at.noise * v


def epsilon_from_v(schedule: NoiseSchedule, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """epsilon = sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v (Salimans and Ho, appendix D)."""
    at = schedule.at(t, like=x_t)
    return at.noise * x_t + at.signal * v


def x0_and_epsilon(
    schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Tensor, parameterization: Parameterization
) -> tuple[Tensor, Tensor]:
    """x0 and epsilon from the output of a network that predicts x0, epsilon or v, each by its most direct formula."""
    if parameterization == "x0":
        return output, epsilon_from_x0(schedule, output, x_t, t)
    if parameterization == "epsilon":
        return x0_from_epsilon(schedule, output, x_t, t), output
    if parameterization == "v":
        return x0_from_v(schedule, output, x_t, t), epsilon_from_v(schedule, output, x_t, t)
    raise ValueError(f"unknown parameterization {parameterization!r}; there are x0, epsilon and v")


def training_target(
    schedule: NoiseSchedule, x0: Tensor, noise: Tensor, t: Tensor, parameterization: Parameterization
) -> Tensor:
    """The target of a network with this parameterization."""
    if parameterization == "x0":
        return x0
    if parameterization == "epsilon":
        return noise
    if parameterization == "v":
        return velocity(schedule, x0, noise, t)
    raise ValueError(f"unknown parameterization {parameterization!r}; there are x0, epsilon and v")
