"""Sampling where some of the data are known: RePaint (Lugmayr et al. 2022), over any denoiser."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.noise import Generators
from modules.diffusion.noise_schedule import NoiseSchedule
from modules.diffusion.samplers.implicit import check_eta, towards
from modules.diffusion.samplers.loop import Denoise, Noise, OnStep, State, run
from modules.diffusion.samplers.trajectory import Transition


def inpaint(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    known: Tensor,
    mask: Tensor,
    generators: Generators,
    resamples: int = 4,
    eta: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draws the open part of the data so that it fits the known part (RePaint algorithm 1, jump length 1).

    After each step the known part is replaced by the data, noised afresh to the step's level; going back up a step and
    down again, `resamples` times in all, lets the two parts agree. The last step adds no noise: the known part is
    returned as it was given.

    Args:
        denoiser, schedule, x_T, on_step: as in `modules.diffusion.samplers`.
        known: (B, ...) the data; what the mask leaves open has no effect.
        mask: broadcasts with x_T; 1 where the data are known, 0 where they are to be drawn.
        generators: one an image.
        resamples: times that each step is taken; 1 is plain replacement.
        eta: of the DDIM step: 1 as noisy as DDPM, 0 without noise of its own.

    Returns:
        (B, ...).

    Raises:
        ValueError: eta outside [0, 1], resamples below 1, or a mask outside [0, 1].
    """
    check_eta(eta)
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("the mask must lie in [0, 1]")
    clean = torch.where(mask > 0, known, torch.zeros_like(known))
    step = partial(repaint_step, known=clean, mask=mask, like=x_T, resamples=resamples, eta=eta)
    return run(step, denoiser, schedule, x_T, generators, on_step)


def repaint_step(
    state: State,
    transition: Transition,
    denoise: Denoise,
    noise: Noise,
    *,
    known: Tensor,
    mask: Tensor,
    like: Tensor,
    resamples: int,
    eta: float,
) -> State:
    """One noise level of RePaint algorithm 1: DDIM's step where the mask is 0, the noised data where it is 1.

    Args:
        known: (B, ...) finite everywhere.
        like: all noise has its shape, dtype and device.
        Others as in ``inpaint``.
    """
    x, alpha_bar = state.x, transition.next.alpha_bar
    variance = eta**2 * transition.posterior_variance
    for again in range(resamples):
        prediction = denoise(x)
        drawn = towards(prediction, alpha_bar, variance)
        if transition.last:
            return State(mask * known + (1 - mask) * drawn, prediction.x0)
        drawn = drawn + math.sqrt(variance) * noise(like)
        noised = math.sqrt(alpha_bar) * known + math.sqrt(1 - alpha_bar) * noise(like)
        x = mask * noised + (1 - mask) * drawn
        if again < resamples - 1:
            x = math.sqrt(transition.alpha) * x + math.sqrt(transition.beta) * noise(like)
    return State(x, prediction.x0)
