"""Denoising diffusion implicit models, DDIM (Song et al. 2010.02502) and its inversion."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Prediction
from modules.diffusion.noise import Generators
from modules.diffusion.noise_schedule import NoiseSchedule
from modules.diffusion.samplers.loop import Denoise, Noise, OnStep, State, run
from modules.diffusion.samplers.trajectory import Transition


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
    check_eta(eta)
    return run(partial(ddim_step, eta=eta), denoiser, schedule, x_T, generators, on_step)


def ddim_step(state: State, transition: Transition, denoise: Denoise, noise: Noise, *, eta: float = 0.0) -> State:
    """DDIM eq. 12; the step to the data adds no noise."""
    prediction = denoise(state.x)
    variance = eta**2 * transition.posterior_variance
    x = towards(prediction, transition.next.alpha_bar, variance)
    if eta > 0 and not transition.last:
        x = x + math.sqrt(variance) * noise(x)
    return State(x, prediction.x0)


def towards(prediction: Prediction, alpha_bar: float, variance: float = 0.0) -> Tensor:
    """Mean of DDIM's step to the level alpha_bar, when the step is to add noise of that variance (DDIM eq. 12)."""
    return math.sqrt(alpha_bar) * prediction.x0 + math.sqrt(max(1 - alpha_bar - variance, 0.0)) * prediction.epsilon


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

    A step up from x_{k-1} needs epsilon at x_k, which is not known yet. Epsilon at (x_{k-1}, t_k) stands in for it, an
    error that vanishes with more steps. Each fixed-point iteration looks where ddim's step from the present x_k
    arrives, and moves x_k by the difference to x_{k-1} (Pan et al. 2023, AIDI). About 10 of them make the round trip
    exact to rounding at few steps, wherever ddim's step has an inverse.

    For a network that predicts epsilon this is diffusers' DDIMInverseScheduler. For one that predicts v or x0, epsilon
    has to be computed from the output and x_{k-1}. Here it is the epsilon of t_k, the timestep that the network is
    told: the same estimate as in sampling, so that the fixed point is the inverse of ddim's step. Differs from
    diffusers, which computes it with the noise level of x_{k-1} from an output for t_k; its round trip is worse.
    Differs from GLIDE's code too (`ddim_reverse_sample`), which evaluates the network at t_{k-1}, where x_{k-1} lies.

    Args:
        x_0: (B, ...) data.
        generators: not used; all samplers take the same arguments.
        fixed_point_iterations: further evaluations per step.

    Returns:
        (B, ...) x_T at the schedule's last timestep.
    """
    step = partial(inversion_step, iterations=fixed_point_iterations)
    return run(step, denoiser, schedule, x_0, generators, on_step, upwards=True)


def inversion_step(
    state: State, transition: Transition, denoise: Denoise, noise: Noise, *, iterations: int = 0
) -> State:
    """From the level ``next`` up to the level ``now``; see ``ddim_invert``."""
    now, cleaner = transition.now, transition.next
    prediction = denoise(state.x)
    guess = now.signal / cleaner.signal * (state.x - cleaner.noise * prediction.epsilon)
    guess = guess + now.noise * prediction.epsilon
    # 1 / cos of the step's angle: exact if the velocity does not depend on x.
    rate = 1 / (now.signal * cleaner.signal + now.noise * cleaner.noise)

    def down(x: Tensor) -> Tensor:
        return towards(denoise(x), cleaner.alpha_bar)

    return State(_solve(down, state.x, guess, iterations, rate), prediction.x0)


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


def check_eta(eta: float) -> None:
    """Raises a ValueError unless eta lies in [0, 1]."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
