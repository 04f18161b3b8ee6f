"""From a network's raw output to x0, epsilon and the variance fraction, which samplers need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from modules.diffusion.gaussian import Parameterization, epsilon_from_x0, x0_and_epsilon
from modules.diffusion.noise_schedule import NoiseSchedule, working_dtype


class Prediction(NamedTuple):
    """A denoiser's estimates for x_t.

    Attributes:
        x0: (B, ...) estimate of the data.
        epsilon: (B, ...) estimate of the noise, consistent with x0 at x_t.
        variance_fraction: (B, ...) position of the log variance between beta-tilde (0) and beta (1), not clipped; None
            without learned sigma.
    """

    x0: Tensor
    epsilon: Tensor
    variance_fraction: Tensor | None = None


Model = Callable[[Tensor, Tensor], Tensor]
"""A network with its conditioning closed over: x_t (B, C, ...), t (B,) -> (B, C, ...), or 2C with learned sigma."""

Denoiser = Callable[[Tensor, Tensor], Prediction]
"""x_t (B, ...), t (B,) int64 original timesteps -> Prediction."""

Threshold = Literal["static", "dynamic"] | Callable[[Tensor], Tensor]
"""How an x0 estimate is kept in range: by name with the default range, or any function of x0 (functools.partial)."""


C = TypeVar("C", bound=Callable[..., object])


def at_timestep(call: C, timestep: int) -> C:
    """A model or denoiser for batches whose samples are all at one timestep, which need not be read from the device.

    Samplers ask for it at each step. A model or denoiser that has a method ``at_timestep(timestep)`` returns another
    one by it: guidance within an interval of timesteps returns the conditional model outside of the interval. Any
    other is returned as it is.
    """
    choose: Callable[[int], C] | None = getattr(call, "at_timestep", None)
    return call if choose is None else choose(timestep)


def static_threshold(x0: Tensor, limit: float = 1.0) -> Tensor:
    """Clip to [-limit, limit] (DDPM, code; Imagen 2.3)."""
    return x0.clamp(-limit, limit)


def dynamic_threshold(x0: Tensor, quantile: float = 0.995, limit: float = 1.0, largest: float = float("inf")) -> Tensor:
    """Clip each sample at a quantile s of its absolute values and scale it back to the range (Imagen 2.3).

    Args:
        x0: (B, ...).
        quantile: which one, in [0, 1].
        limit: the data's range; where s is smaller, this is plain clipping at the limit.
        largest: s is not taken larger than this.

    Returns:
        (B, ...) in [-limit, limit].
    """
    flat = x0.flatten(1).to(working_dtype(x0))
    s = torch.quantile(flat.abs(), quantile, dim=1, keepdim=True).clamp(min=limit, max=largest)
    return (flat.clamp(-s, s) * (limit / s)).reshape(x0.shape).to(x0.dtype)


_THRESHOLDS: dict[str, Callable[[Tensor], Tensor]] = {"static": static_threshold, "dynamic": dynamic_threshold}


def split_learned_sigma(output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """(B, 2C, ...) -> the prediction and the raw variance output (B, C, ...) each (Improved DDPM, code).

    Raises:
        ValueError: if the output does not have 2C channels.
    """
    if output.shape[1] != 2 * channels:
        raise ValueError(f"learned sigma needs {2 * channels} output channels, the network returned {output.shape[1]}")
    return output[:, :channels], output[:, channels:]


def as_denoiser(
    model: Model,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    learned_sigma: bool = False,
    threshold: Threshold | None = None,
) -> Denoiser:
    """Reads a network's raw output as a Prediction.

    Args:
        model: (x_t (B, C, ...), t (B,)) -> (B, C, ...), or (B, 2C, ...) with learned sigma.
        schedule: any schedule that holds the timesteps it will be asked for; the training one does.
        parameterization: what the network predicts.
        learned_sigma: the second half of the channels is v in [-1, 1], the fraction (v + 1) / 2 (Improved DDPM, code).
        threshold: keeps the x0 estimate in range; epsilon is then derived again from it (ADM, Imagen).

    Raises:
        ValueError: for epsilon prediction on a schedule that ends at zero SNR; when called, if the network's output has
            the wrong shape.
    """
    if parameterization == "epsilon" and float(schedule.alpha_bar[-1]) == 0:
        raise ValueError("epsilon prediction says nothing of x0 at zero terminal SNR; predict v or x0")
    clip = _THRESHOLDS[threshold] if isinstance(threshold, str) else threshold
    return NetworkDenoiser(model, schedule, parameterization, learned_sigma, clip)


@dataclass(frozen=True, eq=False)
class NetworkDenoiser:
    """A model read as a denoiser; made by ``as_denoiser``, which says what the attributes are."""

    model: Model
    schedule: NoiseSchedule
    parameterization: Parameterization
    learned_sigma: bool
    clip: Callable[[Tensor], Tensor] | None

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See ``Denoiser``."""
        output = self.model(x_t, t).to(working_dtype(x_t))
        fraction = None
        if self.learned_sigma:
            output, raw = split_learned_sigma(output, x_t.shape[1])
            fraction = (raw + 1) / 2
        if output.shape != x_t.shape:
            raise ValueError(f"the network returned {tuple(output.shape)} for a sample of {tuple(x_t.shape)}")
        x0, epsilon = x0_and_epsilon(self.schedule, output, x_t, t, self.parameterization)
        if self.clip is not None:
            x0 = self.clip(x0)
            epsilon = epsilon_from_x0(self.schedule, x0, x_t, t)
        return Prediction(x0, epsilon, fraction)

    def at_timestep(self, timestep: int) -> Denoiser:
        """See ``at_timestep``."""
        return replace(self, model=at_timestep(self.model, timestep))
