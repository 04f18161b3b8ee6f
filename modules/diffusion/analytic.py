"""Analytic-DPM: the reverse variance that is optimal for a given mean (Bao et al. 2201.06503).

It needs one statistic of the trained network and the data: the mean squared score at each noise level. It is estimated
once, recorded with its sample count, and kept with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, at_timestep
from modules.diffusion.gaussian import q_sample
from modules.diffusion.noise_schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class ScoreStatistics:
    """The mean squared score, stored as a number that is 1 or less at every noise level.

    Attributes:
        timesteps: (K,) int64, increasing: the original timesteps that it was measured at.
        mean_squared_epsilon: (K,) float64, E ||epsilon(x_t)||^2 / dimensions = (1 - alpha_bar) Gamma_t (eq. 8).
        data_variance: mean per-dimension variance of the data, which bounds what any x_t leaves unknown.
        count: how many data it was estimated from.
    """

    timesteps: Tensor
    mean_squared_epsilon: Tensor
    data_variance: float
    count: int

    def to_tensors(self) -> dict[str, Tensor]:
        """As tensors, for a checkpoint or a safetensors file."""
        return {
            "timesteps": self.timesteps,
            "mean_squared_epsilon": self.mean_squared_epsilon,
            "data_variance": torch.tensor(self.data_variance, dtype=torch.float64),
            "count": torch.tensor(self.count),
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> ScoreStatistics:
        """The inverse of ``to_tensors``."""
        return ScoreStatistics(
            tensors["timesteps"].to("cpu", torch.int64),
            tensors["mean_squared_epsilon"].to("cpu", torch.float64),
            float(tensors["data_variance"]),
            int(tensors["count"]),
        )


class AnalyticVariance(NamedTuple):
    """(N,) float64 each, one per step of a schedule: the optimal variance and the bounds that it lies within."""

    variance: Tensor
    lower: Tensor
    upper: Tensor


@torch.no_grad()
def estimate_statistics(
    batches: Iterable[tuple[Denoiser, Tensor]], schedule: NoiseSchedule, generator: torch.Generator
) -> ScoreStatistics:
    """Monte-Carlo estimate of the mean squared score at every timestep of a schedule (Analytic-DPM eq. 8).

    Near pure noise 1 minus the statistic is tiny and gets multiplied by a large number, so that the chance deviations
    of the drawn noise would swamp it. So each draw is used with both signs, and its mean square, known to be 1, serves
    as a control variate, with the coefficient that is optimal for Gaussian data of this variance.

    Args:
        batches: pairs of a denoiser, with this batch's conditioning closed over, and training data (B, ...) in the
            range that the network sees. Costs two denoiser calls per batch and timestep.
        schedule: the training schedule, or the trajectory that will be sampled.
        generator: draws the noise, on its own device.

    Raises:
        ValueError: if there are no data.
    """
    count = 0
    sums = torch.zeros(2, schedule.num_steps, dtype=torch.float64)
    total, total_square = torch.zeros((), dtype=torch.float64), 0.0
    for denoiser, x0 in batches:
        count += x0.shape[0]
        data = x0.to("cpu", torch.float64)
        total = total + data.sum(dim=0)
        total_square += float(data.square().sum())
        columns = [_excesses(denoiser, schedule, x0, int(t), generator) for t in schedule.timesteps]
        sums += torch.stack(columns, dim=1)
    if count == 0:
        raise ValueError("no data to estimate the mean squared score from")
    variance = max(total_square / count / total.numel() - float((total / count).square().mean()), 0.0)
    of_estimate, of_noise = sums / count
    coefficient = (1 + schedule.snr * variance) ** -2
    return ScoreStatistics(schedule.timesteps, 1 + of_estimate + (1 - coefficient) * of_noise, variance, count)


def _excesses(
    denoiser: Denoiser, schedule: NoiseSchedule, x0: Tensor, timestep: int, generator: torch.Generator
) -> Tensor:
    """Batch sums of (||epsilon(x_t)||^2 - ||noise||^2) / dimensions and of ||noise||^2 / dimensions - 1, in float64."""
    t = torch.full((x0.shape[0],), timestep, dtype=torch.int64, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=generator.device, dtype=x0.dtype).to(x0.device)
    here = at_timestep(denoiser, timestep)
    plus, minus = (here(q_sample(schedule, x0, t, z), t).epsilon for z in (noise, -noise))
    # As products, because near pure noise the squares are equal to rounding.
    excess = ((plus - noise) * (plus + noise) + (minus + noise) * (minus - noise)) / 2
    excesses = torch.stack([excess, noise.square() - 1])
    # Summed in float64 on the CPU: not every accelerator has it.
    return excesses.flatten(2).mean(dim=2).to("cpu", torch.float64).sum(dim=1)


def analytic_variance(schedule: NoiseSchedule, statistics: ScoreStatistics, eta: float = 1.0) -> AnalyticVariance:
    """The optimal variance of each step of a trajectory (Analytic-DPM theorem 1), within its bounds (theorem 2).

    Args:
        schedule: the trajectory; its last noise level must leave some signal.
        statistics: measured at all of its timesteps, and perhaps at others.
        eta: lambda^2 = eta^2 beta-tilde is the variance that the mean is built for: 1 for the DDPM form, 0 for DDIM's.

    Returns:
        The variance, clipped to the bounds. The upper bound is the smaller of two: that of any data, and that of data
        with this variance (by the law of total variance).
        Differs from the paper: theorem 2 uses the range of the data. Data within a range have at most the squared half
        of the range as their variance, so this bound is at least as tight.

    Raises:
        ValueError: if the statistics lack a timestep of the schedule, or the schedule ends at zero SNR.
    """
    if float(schedule.alpha_bar[-1]) == 0:
        raise ValueError("the optimal variance is not defined at zero terminal SNR")
    known = {int(t): k for k, t in enumerate(statistics.timesteps)}
    missing = [int(t) for t in schedule.timesteps if int(t) not in known]
    if missing:
        raise ValueError(f"the score statistics lack timesteps {missing[:5]}; estimate them on this trajectory")
    mean_square = statistics.mean_squared_epsilon[[known[int(t)] for t in schedule.timesteps]]
    lower = eta**2 * schedule.posterior_variance
    rest = (1 - schedule.alpha_bar_prev - lower).clamp(min=0).sqrt()
    # How far the step's mean moves per unit of epsilon, and per unit of x0.
    per_epsilon = (schedule.noise / schedule.alphas.sqrt() - rest).square()
    per_x0 = (schedule.alpha_bar_prev.sqrt() - rest / schedule.snr.rsqrt()).square()
    upper = lower + torch.minimum(per_epsilon, per_x0 * statistics.data_variance)
    variance = lower + per_epsilon * (1 - mean_square)
    return AnalyticVariance(torch.minimum(torch.maximum(variance, lower), upper), lower, upper)
