"""The loop that all samplers share. A sampler is a step: a function of the state and of a pair of noise levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Prediction, at_timestep
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.noise_schedule import NoiseSchedule
from modules.diffusion.samplers.trajectory import Transition, transitions


class State(NamedTuple):
    """The state of a sampler before and after a step.

    Attributes:
        x: (B, ...) the sample.
        x0: (B, ...) the denoiser's estimate of the data at the step that made x; None before the first step.
    """

    x: Tensor
    x0: Tensor | None = None


Denoise = Callable[[Tensor], Prediction]
"""The denoiser at the timestep of this step: x (B, ...) -> Prediction."""

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise with the shape, dtype and device of a sample, each image's from its own generator."""

StepFunction = Callable[[State, Transition, Denoise, Noise], State]
"""One step of a sampler: (state, transition, denoise, noise) -> state."""


class Step(NamedTuple):
    """The argument of ``on_step``.

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


@torch.no_grad()
def run(
    step: StepFunction,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x: Tensor,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    *,
    upwards: bool = False,
) -> Tensor:
    """Takes a step at every noise level of a schedule, from the noisiest down to the data.

    Nothing in the loop waits for the device.

    Args:
        step: of the sampler.
        denoiser: asked at the schedule's timesteps.
        schedule: the trajectory.
        x: (B, ...) the start: x_T, or the data when going upwards.
        generators: one for each image; needed by steps that add noise.
        on_step: called after every step.
        upwards: from the data up to the noisiest level, as an inversion does; each step then goes from a transition's
            ``next`` level to its ``now``.

    Returns:
        (B, ...) the sample after the last step.

    Raises:
        ValueError: if a step asks for noise and there is not one generator per image.
    """

    def noise(like: Tensor) -> Tensor:
        if generators is None:
            raise ValueError("this sampler adds noise: give it one generator per image")
        return randn_per_image(generators, like.shape, like.device, like.dtype)

    steps = transitions(schedule)
    state = State(x)
    for number, transition in enumerate(reversed(steps) if upwards else steps):
        state = step(state, transition, _asked_at(denoiser, transition.timestep, x), noise)
        if on_step is not None:
            assert state.x0 is not None
            on_step(Step(number, len(steps), transition.timestep, state.x0, state.x))
    return state.x


def _asked_at(denoiser: Denoiser, timestep: int, x: Tensor) -> Denoise:
    """The denoiser at one timestep for the whole batch."""
    t = torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device)
    here = at_timestep(denoiser, timestep)
    return lambda x: here(x, t)
