"""Samplers over any denoiser: x_T in, x_0 out.

All take ``(denoiser, schedule, x_T, *, generators, on_step, ...)``. ``schedule`` is the trajectory, usually
``respace``d. ``generators`` holds one torch.Generator per image, so that image i does not depend on the batch it is
drawn in; they may live on another device than x_T. ``on_step`` is called after every step. Images (B, C, H, W) and
embeddings (B, D) alike.

Coefficients are Python floats from the schedule's float64 tensors; x keeps the dtype and the device of x_T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.diffusion.analytic import ScoreStatistics, analytic_variance
from modules.diffusion.denoiser import Denoiser
from modules.diffusion.gaussian import learned_log_variance
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.schedules import NoiseSchedule

Variance = Literal["fixed_small", "fixed_large", "learned"]


class Step(NamedTuple):
    """What ``on_step`` is told.

    Attributes:
        number: 0 for the first step taken, total - 1 for the last.
        total: how many steps the sampler takes.
        timestep: the original timestep that the denoiser was asked at.
        x0: (B, ...) the denoiser's estimate of the data at this step.
        x: (B, ...) the sample after this step.
    """

    number: int
    total: int
    timestep: int
    x0: Tensor
    x: Tensor


OnStep = Callable[[Step], None]


def _noise_like(x: Tensor, generators: Generators | None) -> Tensor:
    if generators is None:
        raise ValueError("this sampler adds noise: give it one generator per image")
    return randn_per_image(generators, x.shape, x.device, x.dtype)


def _downwards(schedule: NoiseSchedule, x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(position, timestep, t) from the noisiest step to the cleanest; t is (B,) on x's device."""
    timesteps = schedule.timesteps.tolist()
    for i in reversed(range(schedule.num_steps)):
        yield i, timesteps[i], torch.full((x.shape[0],), timesteps[i], dtype=torch.int64, device=x.device)


@torch.no_grad()
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
    fixed = {"fixed_small": schedule.posterior_variance, "fixed_large": schedule.betas}
    if variance != "learned" and variance not in fixed:
        raise ValueError(f"unknown variance {variance!r}; there are fixed_small, fixed_large and learned")
    x = x_T
    for i, timestep, t in _downwards(schedule, x):
        prediction = denoiser(x, t)
        x0_weight, x_weight = float(schedule.posterior_x0_coefficient[i]), float(schedule.posterior_xt_coefficient[i])
        mean = x0_weight * prediction.x0 + x_weight * x
        if i == 0:
            x = mean
        elif variance == "learned":
            if prediction.variance_fraction is None:
                raise ValueError("learned variance needs a denoiser with learned sigma")
            log_variance = learned_log_variance(schedule, prediction.variance_fraction, t)
            x = mean + (0.5 * log_variance).exp() * _noise_like(x, generators)
        else:
            x = mean + math.sqrt(float(fixed[variance][i])) * _noise_like(x, generators)
        _report(on_step, schedule, i, timestep, prediction.x0, x)
    return x


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (eq. 12 and 16): deterministic at eta = 0, as noisy as DDPM's fixed_small at eta = 1.

    Raises:
        ValueError: if eta is negative or above 1; without generators where eta > 0.
    """
    _check_eta(eta)
    variances = eta**2 * schedule.posterior_variance
    x = x_T
    for i, timestep, t in _downwards(schedule, x):
        prediction = denoiser(x, t)
        x = _towards(prediction.x0, prediction.epsilon, float(schedule.alpha_bar_prev[i]), float(variances[i]))
        if eta > 0 and i > 0:
            x = x + math.sqrt(float(variances[i])) * _noise_like(x, generators)
        _report(on_step, schedule, i, timestep, prediction.x0, x)
    return x


@torch.no_grad()
def ddim_invert(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_0: Tensor,
    *,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    fixed_point_iterations: int = 0,
) -> Tensor:
    """The x_T from which ``ddim`` with eta = 0 and the same schedule returns to x_0 (DDIM 4.3; unCLIP 3).

    A step up from x_{k-1} needs epsilon at x_k, which is not known yet; epsilon at (x_{k-1}, t_k) stands in for it, an
    error that vanishes with more steps. Each fixed-point iteration looks at where ddim's step from the x_k found so far
    arrives, and moves x_k by what is missing (Pan et al. 2023, AIDI); 10 or so make the round trip exact to rounding at
    few steps, wherever ddim's step has an inverse.

    Args:
        x_0: (B, ...) data.
        generators: not used; here so that all samplers take the same arguments.
        fixed_point_iterations: further evaluations per step.

    Returns:
        (B, ...) x_T at the schedule's last timestep.
    """
    signal, noise = schedule.signal.tolist(), schedule.noise.tolist()
    x = x_0
    for i, timestep in enumerate(schedule.timesteps.tolist()):
        a, s = signal[i], noise[i]
        a_prev, s_prev = (signal[i - 1], noise[i - 1]) if i > 0 else (1.0, 0.0)
        t = torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device)
        prediction = denoiser(x, t)
        guess = a / a_prev * (x - s_prev * prediction.epsilon) + s * prediction.epsilon

        def down(x_k: Tensor, t: Tensor = t, alpha_bar: float = float(schedule.alpha_bar_prev[i])) -> Tensor:
            at_x_k = denoiser(x_k, t)
            return _towards(at_x_k.x0, at_x_k.epsilon, alpha_bar, 0.0)

        # 1 / cos of the step's angle: exact if the velocity does not depend on x.
        x = _solve(down, x, guess, fixed_point_iterations, 1 / (a * a_prev + s * s_prev))
        if on_step is not None:
            on_step(Step(i, schedule.num_steps, timestep, prediction.x0, x))
    return x


@torch.no_grad()
def analytic_dpm(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    statistics: ScoreStatistics,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    eta: float = 1.0,
    data_range: tuple[float, float] | None = None,
    noise_limit: float | None = None,
) -> Tensor:
    """Analytic-DPM: each step has the variance that is optimal for its mean (Bao et al. theorem 1).

    Args:
        statistics: the mean squared epsilon at every timestep of the schedule, from ``estimate_statistics``.
        eta: 1 for the DDPM form, 0 for the DDIM form (whose steps have noise too), between for those in between.
        data_range: smallest and largest value of the data, which sharpens the variance's upper bound (theorem 2).
        noise_limit: the step before the last adds noise of this mean absolute value at most (Bao et al. appendix H.2:
            2/255 for images in [-1, 1]). The last step adds none.

    Raises:
        ValueError: if eta is outside [0, 1]; if the statistics lack a timestep; without generators.
    """
    _check_eta(eta)
    inner = eta**2 * schedule.posterior_variance
    variances = analytic_variance(schedule, statistics, eta, data_range).variance
    x = x_T
    for i, timestep, t in _downwards(schedule, x):
        prediction = denoiser(x, t)
        x = _towards(prediction.x0, prediction.epsilon, float(schedule.alpha_bar_prev[i]), float(inner[i]))
        if i > 0:
            deviation = math.sqrt(float(variances[i]))
            if i == 1 and noise_limit is not None:
                deviation = min(deviation, noise_limit * math.sqrt(math.pi / 2))
            x = x + deviation * _noise_like(x, generators)
        _report(on_step, schedule, i, timestep, prediction.x0, x)
    return x


@torch.no_grad()
def dpm_solver_pp(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    order: Literal[1, 2] = 2,
    sde: bool = False,
) -> Tensor:
    """DPM-Solver++ 2M (Lu et al. 2211.01095 algorithm 2), or SDE-DPM-Solver++ 2M (their eq. 19), midpoint form.

    The first step, and the last one to zero noise, are of first order.

    Args:
        order: 2, or 1, which is DDIM with eta = 0 (and, with sde, DDPM's fixed_small variance in another mean).
        sde: the stochastic solver.

    Raises:
        ValueError: for another order; for sde without generators.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    half_log_snr = [math.inf, *(0.5 * schedule.log_snr).tolist()]
    signal, noise = [1.0, *schedule.signal.tolist()], [0.0, *schedule.noise.tolist()]
    x, last_x0, last_h = x_T, None, 0.0
    for i, timestep, t in _downwards(schedule, x):
        # In these three lists position i is the level that the step goes to, and i + 1 the one that it starts from.
        h = half_log_snr[i] - half_log_snr[i + 1]
        x0 = denoiser(x, t).x0
        direction = x0
        if order == 2 and last_x0 is not None and i > 0:
            direction = x0 + 0.5 * h / last_h * (x0 - last_x0)
        decay = math.exp(-h) if sde else 1.0
        gain = -math.expm1(-2 * h if sde else -h)
        x = noise[i] / noise[i + 1] * decay * x + signal[i] * gain * direction
        if sde and i > 0:
            x = x + noise[i] * math.sqrt(-math.expm1(-2 * h)) * _noise_like(x, generators)
        last_x0, last_h = x0, h
        _report(on_step, schedule, i, timestep, x0, x)
    return x


def _towards(x0: Tensor, epsilon: Tensor, alpha_bar: float, variance: float) -> Tensor:
    """Mean of DDIM's step to alpha_bar when the step is to add noise of that variance (DDIM eq. 12)."""
    return math.sqrt(alpha_bar) * x0 + math.sqrt(max(1 - alpha_bar - variance, 0.0)) * epsilon


def _solve(down: Callable[[Tensor], Tensor], target: Tensor, x: Tensor, iterations: int, rate: float) -> Tensor:
    """Solves down(x) = target, each image by itself, with Barzilai and Borwein's step length after the first.

    The plain iteration, whose step length is ``rate``, diverges where ddim's step expands, as between two modes.
    Returns the x that followed the smallest residual, so that an image without a solution is not carried off.
    """
    best, smallest = x, torch.full((x.shape[0],), math.inf, device=x.device, dtype=x.dtype)
    lengths = torch.full_like(smallest, rate)
    previous: tuple[Tensor, Tensor] | None = None
    for _ in range(iterations):
        residual = target - down(x)
        if previous is not None:
            moved, gained = (x - previous[0]).flatten(1), (previous[1] - residual).flatten(1)
            slope = (moved * gained).sum(dim=1) / gained.square().sum(dim=1)
            lengths = torch.where(slope > 0, slope.clamp(0.02, 10), rate)  # also where 0 / 0 says: arrived
        previous = (x, residual)
        x = x + lengths.reshape(-1, *([1] * (x.ndim - 1))) * residual
        size = residual.flatten(1).norm(dim=1)
        better = size < smallest
        best = torch.where(better.reshape(-1, *([1] * (x.ndim - 1))), x, best)
        smallest = torch.where(better, size, smallest)
    return best


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")


def _report(on_step: OnStep | None, schedule: NoiseSchedule, i: int, timestep: int, x0: Tensor, x: Tensor) -> None:
    if on_step is not None:
        on_step(Step(schedule.num_steps - 1 - i, schedule.num_steps, timestep, x0, x))
