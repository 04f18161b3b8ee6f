"""CLIP guidance: towards images that a CLIP finds similar to the caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Prediction, at_timestep
from modules.diffusion.gaussian import x0_from_epsilon
from modules.diffusion.noise_schedule import NoiseSchedule


def clip_guide(
    denoiser: Denoiser, schedule: NoiseSchedule, similarity: Callable[[Tensor], Tensor], scale: float
) -> Denoiser:
    """CLIP guidance (GLIDE 2.4): follow the gradient, with respect to x_t, of the similarity of the x0 estimate.

    epsilon - scale * sqrt(1 - alpha_bar) * gradient (ADM eq. 14), and x0 in accordance with it.

    Differs from the paper: GLIDE trains a CLIP on noised images; this one sees the denoiser's x0 estimate, so any CLIP
    will do.

    Args:
        denoiser: differentiable in x_t.
        schedule: holds the timesteps that it is asked for.
        similarity: x0 (B, ...) -> (B,) similarity with each sample's caption, for instance the CLIP dot product.
        scale: 0 is the denoiser itself, and costs no gradient.

    Returns:
        A denoiser that also works inside of no_grad and inference_mode; what the callables close over must not have
        been made in inference_mode.

    Raises:
        ValueError: for a schedule that ends at zero SNR, where epsilon says nothing of x0.
    """
    if float(schedule.alpha_bar[-1]) == 0:
        raise ValueError("CLIP guidance moves epsilon, which says nothing of x0 at zero terminal SNR")
    return denoiser if scale == 0 else CLIPGuided(denoiser, schedule, similarity, scale)


@dataclass(frozen=True, eq=False)
class CLIPGuided:
    """A denoiser under CLIP guidance; made by ``clip_guide``, which says what the attributes are."""

    denoiser: Denoiser
    schedule: NoiseSchedule
    similarity: Callable[[Tensor], Tensor]
    scale: float

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See ``Denoiser``."""
        with torch.inference_mode(False), torch.enable_grad():
            x, t_copy = x_t.detach().clone().requires_grad_(), t.clone()
            prediction = self.denoiser(x, t_copy)
            (gradient,) = torch.autograd.grad(self.similarity(prediction.x0).sum(), x)
        epsilon = prediction.epsilon.detach() - self.scale * self.schedule.at(t, like=x_t).noise * gradient
        fraction = prediction.variance_fraction
        x0 = x0_from_epsilon(self.schedule, epsilon, x_t, t)
        return Prediction(x0, epsilon, None if fraction is None else fraction.detach())

    def at_timestep(self, timestep: int) -> Denoiser:
        """See ``denoiser.at_timestep``."""
        return replace(self, denoiser=at_timestep(self.denoiser, timestep))
