"""Sampling where some of the data are known: RePaint (Lugmayr et al. 2022), over any denoiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.samplers import OnStep, Step
from modules.diffusion.schedules import NoiseSchedule


@torch.no_grad()
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
    """Draws what the mask leaves open, so that it fits what is known (RePaint algorithm 1, jump length 1).

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
    if not 0 <= eta <= 1 or resamples < 1:
        raise ValueError(f"eta must lie in [0, 1] and resamples be 1 or more, got {eta} and {resamples}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("the mask must lie in [0, 1]")

    def noise() -> Tensor:
        return randn_per_image(generators, x_T.shape, x_T.device, x_T.dtype)

    clean, x = torch.where(mask > 0, known, torch.zeros_like(known)), x_T
    for i in reversed(range(schedule.num_steps)):
        timestep, alpha_bar = int(schedule.timesteps[i]), float(schedule.alpha_bar_prev[i])
        variance = eta**2 * float(schedule.posterior_variance[i])
        t = torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device)
        for again in range(resamples):
            prediction = denoiser(x, t)
            drawn = math.sqrt(alpha_bar) * prediction.x0
            drawn = drawn + math.sqrt(max(1 - alpha_bar - variance, 0.0)) * prediction.epsilon
            if i == 0:
                x = mask * clean + (1 - mask) * drawn
                break
            drawn = drawn + math.sqrt(variance) * noise()
            noised = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise()
            x = mask * noised + (1 - mask) * drawn
            if again < resamples - 1:
                x = math.sqrt(float(schedule.alphas[i])) * x + math.sqrt(float(schedule.betas[i])) * noise()
        if on_step is not None:
            on_step(Step(schedule.num_steps - 1 - i, schedule.num_steps, timestep, prediction.x0, x))
    return x
