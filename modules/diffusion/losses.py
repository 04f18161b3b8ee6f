"""Training losses, one number per sample.

A network that predicts x0, epsilon or v is compared with its target by mean squared error. In terms of the x0 error e,
these are e, SNR e and (SNR + 1) e; so a weighting is stated once, as the weight of the x0 error, and divided by the
factor that the parameterization brings along. `pseudo_huber` of the prediction may take the place of its squared error;
the factor stays the same.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from modules.diffusion.bound import Decoder, bound_term
from modules.diffusion.denoiser import split_learned_sigma
from modules.diffusion.gaussian import (
    Gaussian,
    Parameterization,
    learned_log_variance,
    posterior,
    q_sample,
    training_target,
    x0_and_epsilon,
)
from modules.diffusion.noise_schedule import NoiseSchedule, working_dtype

Weighting = Literal["none", "snr", "min_snr", "min_snr_plus_one"]


def loss_weight(
    schedule: NoiseSchedule,
    t: Tensor,
    parameterization: Parameterization,
    weighting: Weighting = "none",
    gamma: float = 5.0,
) -> Tensor:
    """The factor of the mean squared error in the network's own parameterization.

    Args:
        schedule: the training schedule.
        t: (B,) int64 timesteps.
        parameterization: what the network predicts.
        weighting: "none" leaves the error as it is; the others give the x0 error the weight SNR ("snr": plain epsilon
            loss), min(SNR, gamma) ("min_snr": Hang et al. eq. 8) or min(SNR + 1, gamma) ("min_snr_plus_one": truncated
            v loss).
        gamma: where the weight is cut off.

    Returns:
        (B,) float32.

    Raises:
        ValueError: for an unknown name, or min_snr_plus_one with epsilon prediction, whose weight grows as 1 / SNR.
    """
    key = ("loss weight", parameterization, weighting, gamma)
    return schedule.kept_lookup(key, lambda: _weights(schedule, parameterization, weighting, gamma), t)


def _weights(schedule: NoiseSchedule, parameterization: Parameterization, weighting: Weighting, gamma: float) -> Tensor:
    """(N,) float64 weight at each step."""
    snr = schedule.snr
    if weighting == "none":
        return torch.ones_like(snr)
    if weighting == "snr":
        return {"x0": snr, "epsilon": torch.ones_like(snr), "v": schedule.alpha_bar}[parameterization]
    if weighting == "min_snr":
        # min(SNR, gamma) / SNR and / (SNR + 1), written so that SNR = 0 is no special case.
        return {
            "x0": snr.clamp(max=gamma),
            "epsilon": (gamma / snr).clamp(max=1),
            "v": snr.clamp(max=gamma) / (snr + 1),
        }[parameterization]
    if weighting != "min_snr_plus_one":
        raise ValueError(f"unknown weighting {weighting!r}; there are none, snr, min_snr and min_snr_plus_one")
    if parameterization == "epsilon":
        raise ValueError(
            "min_snr_plus_one is a weighting for x0 and v; for epsilon it grows without bound as SNR falls"
        )
    weight = (snr + 1).clamp(max=gamma)
    return weight / (snr + 1) if parameterization == "v" else weight


def pseudo_huber(error: Tensor, scale: float) -> Tensor:
    """The squared error where it is far below `scale`, and 2 scale |error| far above it, smoothly.

    2 c (sqrt(e^2 + c^2) - c) of every value e, with c the scale: LapSRN's Charbonnier loss (1710.01992) times 2 c, less
    what it is at 0. Large errors count less than in the mean squared error. So where the picture cannot
    be known, an edge that may lie here or there, the best estimate is nearer to the median, which is sharp, than to the
    mean, which is soft.
    """
    squared = error.square()
    return 2 * scale * squared / ((squared + scale**2).sqrt() + scale)  # No difference of nearly equal numbers.


def diffusion_loss(
    output: Tensor,
    schedule: NoiseSchedule,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    parameterization: Parameterization,
    weighting: Weighting = "none",
    gamma: float = 5.0,
    huber_scale: float | None = None,
) -> Tensor:
    """Weighted mean error of a network's output, by default squared (DDPM eq. 14 for epsilon; unCLIP 2.2 for x0).

    Args:
        output: (B, ...) what the network returned for q_sample(schedule, x0, t, noise); any float dtype.
        schedule: the training schedule.
        x0, noise: (B, ...) the data and the noise that was added.
        t: (B,) int64 timesteps.
        parameterization, weighting, gamma: as in loss_weight.
        huber_scale: take `pseudo_huber` of this scale instead of the squared error; None for the squared error.

    Returns:
        (B,) the mean over a sample's dimensions, in float32 at least.
    """
    dtype = working_dtype(x0)
    error = output.to(dtype) - training_target(schedule, x0.to(dtype), noise.to(dtype), t, parameterization)
    values = error.square() if huber_scale is None else pseudo_huber(error, huber_scale)
    return values.flatten(1).mean(dim=1) * loss_weight(schedule, t, parameterization, weighting, gamma)


def hybrid_loss(
    output: Tensor,
    schedule: NoiseSchedule,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    parameterization: Parameterization,
    weighting: Weighting = "none",
    gamma: float = 5.0,
    huber_scale: float | None = None,
    bound_weight: float = 0.001,
    decoder: Decoder = "discretised",
) -> Tensor:
    """L_simple + bound_weight * L_vlb for a network with learned sigma (Improved DDPM eq. 16).

    The bound's gradient does not reach the mean. L_vlb is estimated by T times its term at t, in bits per dimension.

    Args:
        output: (B, 2C, ...) prediction and raw variance, any float dtype.
        bound_weight: lambda; 0.001 keeps the bound from dominating.
        decoder: "discretised" for 8-bit images in [-1, 1], "gaussian" for continuous data.
        Others as in diffusion_loss.

    Returns:
        (B,) finite, with finite gradients, at every timestep.
    """
    mean_output, raw = split_learned_sigma(output, x0.shape[1])
    simple = diffusion_loss(mean_output, schedule, x0, noise, t, parameterization, weighting, gamma, huber_scale)
    dtype = working_dtype(x0)
    x0, noise = x0.to(dtype), noise.to(dtype)
    x_t = q_sample(schedule, x0, t, noise)
    x0_estimate, _ = x0_and_epsilon(schedule, mean_output.detach().to(dtype), x_t, t, parameterization)
    log_variance = _tame(learned_log_variance(schedule, (raw.to(dtype) + 1) / 2, t), schedule, t)
    mean = posterior(schedule, x0_estimate, x_t, t).mean
    term = bound_term(schedule, Gaussian(mean, log_variance.exp(), log_variance), x0, x_t, t, decoder)
    return simple + bound_weight * schedule.num_steps * term


def _tame(log_variance: Tensor, schedule: NoiseSchedule, t: Tensor, slack: float = 10.0) -> Tensor:
    """Keeps exp(-log_variance) finite when an untrained variance head is far out of its range, and its gradient alive.

    The identity within ``slack`` nats of [log beta-tilde, log beta]; beyond, the excess grows as its logarithm.
    """
    at = schedule.at(t, like=log_variance)
    low, high = at.posterior_log_variance - slack, at.log_betas + slack
    above, below = (log_variance - high).clamp(min=0), (low - log_variance).clamp(min=0)
    inside = torch.minimum(torch.maximum(log_variance, low), high)
    return inside + torch.log1p(above) - torch.log1p(below)
