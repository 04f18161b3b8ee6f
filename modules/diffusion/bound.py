"""The variational bound on the negative log-likelihood, term by term, in bits per dimension (DDPM eq. 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Prediction, at_timestep
from modules.diffusion.gaussian import Gaussian, learned_log_variance, posterior, q_sample
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.noise_schedule import NoiseSchedule, working_dtype

Decoder = Literal["discretised", "gaussian"]
ModelVariance = Literal["fixed_small", "fixed_large", "learned"] | Tensor


class VariationalBound(NamedTuple):
    """The bound of each sample over a schedule of N steps, in bits per dimension but for the two squared errors.

    Attributes:
        total: (B,) prior + the sum of terms: an upper bound of -log2 p(x0) / dimensions.
        prior: (B,) KL of q(x_T | x0) from the standard normal.
        terms: (B, N); column 0 is -log2 p(x0 | x_1) / dimensions, column k the KL at step k.
        x0_mse, epsilon_mse: (B, N) mean squared errors of the two estimates.
    """

    total: Tensor
    prior: Tensor
    terms: Tensor
    x0_mse: Tensor
    epsilon_mse: Tensor


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x0: Tensor,
    *,
    generators: Generators,
    variance: ModelVariance = "fixed_small",
    decoder: Decoder = "discretised",
    on_step: Callable[[], object] | None = None,
) -> VariationalBound:
    """Every term of the bound, each at one draw of the noise (Improved DDPM eq. 4 to 7).

    Costs one denoiser call per step of the schedule; a respaced schedule gives the bound of the respaced process.

    Args:
        denoiser: any trained stage, as a denoiser.
        schedule: N steps.
        x0: (B, ...) data.
        generators: one per sample.
        variance: of the reverse steps, as in ``reverse_distribution``.
        decoder: "discretised" for 8-bit images in [-1, 1]; "gaussian" for continuous data, whose bound may be negative.
        on_step: called after every step.
    """
    x0 = x0.to(working_dtype(x0))
    terms, x0_mse, epsilon_mse = [], [], []
    for timestep in schedule.timesteps.tolist():
        t = torch.full((x0.shape[0],), timestep, dtype=torch.int64, device=x0.device)
        noise = randn_per_image(generators, x0.shape, x0.device, x0.dtype)
        x_t = q_sample(schedule, x0, t, noise)
        prediction = at_timestep(denoiser, timestep)(x_t, t)
        model = reverse_distribution(prediction, schedule, x_t, t, variance)
        terms.append(bound_term(schedule, model, x0, x_t, t, decoder))
        x0_mse.append(_mean(prediction.x0 - x0, squared=True))
        epsilon_mse.append(_mean(prediction.epsilon - noise, squared=True))
        if on_step is not None:
            on_step()
    prior, stacked = prior_term(schedule, x0), torch.stack(terms, dim=1)
    total = prior + stacked.sum(dim=1)
    return VariationalBound(total, prior, stacked, torch.stack(x0_mse, dim=1), torch.stack(epsilon_mse, dim=1))


def reverse_distribution(
    prediction: Prediction, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, variance: ModelVariance
) -> Gaussian:
    """p(x_{t-1} | x_t): the posterior's mean at the predicted x0, with the variance that is asked for.

    Args:
        prediction: the denoiser's, at (x_t (B, ...), t (B,)).
        schedule: its previous step is "t - 1".
        variance: "fixed_small" beta-tilde, "fixed_large" beta, "learned" by the prediction's fraction, or (N,) float64
            of one's own (Analytic-DPM's). The first step of the fixed ones has beta-tilde of the second (Improved DDPM,
            code), and so has one's own where it is less: Analytic-DPM's may be 0 there, since x_1 says nearly all of
            x_0, and a density of no width has no likelihood.

    Raises:
        ValueError: for an unknown name, or "learned" without a variance fraction.
    """
    mean = posterior(schedule, prediction.x0, x_t, t).mean
    if isinstance(variance, Tensor):
        log_variance = schedule.lookup(_log_with_floor(variance, schedule), t, x_t)
    elif variance == "fixed_small":
        log_variance = schedule.at(t, like=x_t).posterior_log_variance
    elif variance == "fixed_large":
        log_variance = schedule.at(t, like=x_t).fixed_large_log_variance
    elif variance == "learned":
        if prediction.variance_fraction is None:
            raise ValueError("learned variance needs a denoiser with learned sigma")
        log_variance = learned_log_variance(schedule, prediction.variance_fraction, t)
    else:
        raise ValueError(f"unknown variance {variance!r}; there are fixed_small, fixed_large and learned")
    return Gaussian(mean, log_variance.exp(), log_variance)


def _log_with_floor(variance: Tensor, schedule: NoiseSchedule) -> Tensor:
    """(N,) log variances; the first at least that of the fixed_small variance."""
    logs = variance.log()
    return torch.cat([torch.maximum(logs[:1], schedule.posterior_log_variance[:1]), logs[1:]])


def bound_term(
    schedule: NoiseSchedule, model: Gaussian, x0: Tensor, x_t: Tensor, t: Tensor, decoder: Decoder = "discretised"
) -> Tensor:
    """A term of the bound (DDPM eq. 5): -log p(x0 | x_1) at the first step, KL(q(x_{t-1} | x_t, x0) || p) at others.

    Args:
        model: p(x_{t-1} | x_t), from ``reverse_distribution``; only mean and log_variance are read.
        x0, x_t: (B, ...) data and its noised form.
        t: (B,) int64 timesteps of the schedule.
        decoder: of the first step.

    Returns:
        (B,) bits per dimension.
    """
    true = posterior(schedule, x0, x_t, t)
    kl = _mean(gaussian_kl(true, model))
    likelihood = {"discretised": discretised_log_likelihood, "gaussian": gaussian_log_likelihood}
    if decoder not in likelihood:
        raise ValueError(f"unknown decoder {decoder!r}; there are discretised and gaussian")
    nll = -_mean(likelihood[decoder](x0, model))
    return torch.where(t == schedule.first_timestep, nll, kl) / math.log(2)


def prior_term(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """KL(q(x_T | x0) || N(0, I)), (B,) bits per dimension: what the last level still says of x0 (DDPM eq. 5, L_T)."""
    alpha_bar = float(schedule.alpha_bar[-1])
    return _mean(0.5 * (alpha_bar * x0.square() - alpha_bar - math.log1p(-alpha_bar))) / math.log(2)


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in nats per element, from means and log variances (the closed form behind DDPM eq. 8)."""
    difference = q.log_variance - p.log_variance
    return 0.5 * (torch.expm1(difference) - difference + (q.mean - p.mean).square() * torch.exp(-p.log_variance))


def gaussian_log_likelihood(x: Tensor, p: Gaussian) -> Tensor:
    """log p(x) in nats per element, of a density."""
    return -0.5 * (math.log(2 * math.pi) + p.log_variance + (x - p.mean).square() * torch.exp(-p.log_variance))


def discretised_log_likelihood(x: Tensor, p: Gaussian) -> Tensor:
    """log P(x) in nats per element of 8-bit values scaled to [-1, 1] (DDPM eq. 13): each is a bin of width 2/255.

    Differs from the paper's code: logs of the exact normal distribution function, which stay finite in the tails,
    instead of an approximation by tanh.
    """
    inverse = torch.exp(-0.5 * p.log_variance)
    upper, lower = (x - p.mean + 1 / 255) * inverse, (x - p.mean - 1 / 255) * inverse
    below, above = _log_ndtr(upper), _log_ndtr(-lower)
    # Between the ends: log(cdf(upper) - cdf(lower)), mirrored into the left tail, where neither is close to 1.
    flip = lower + upper > 0
    high = _log_ndtr(torch.where(flip, -lower, upper))
    low = _log_ndtr(torch.where(flip, -upper, lower))
    inner = high + torch.log(-torch.expm1((low - high).clamp(max=-1e-12)))
    return torch.where(x < -0.999, below, torch.where(x > 0.999, above, inner))


def _log_ndtr(z: Tensor) -> Tensor:
    """Log of the normal distribution function; torch.special.log_ndtr has a wrong gradient far below 0 in float32."""
    left, right = torch.where(z < 0, z, 0.0), torch.where(z < 0, 0.0, z)
    tail = torch.log(0.5 * torch.special.erfcx(left * -math.sqrt(0.5))) - 0.5 * left.square()
    return torch.where(z < 0, tail, torch.log1p(-0.5 * torch.special.erfc(right * math.sqrt(0.5))))


def _mean(x: Tensor, squared: bool = False) -> Tensor:
    """(B, ...) -> (B,)."""
    return (x.square() if squared else x).flatten(1).mean(dim=1)
