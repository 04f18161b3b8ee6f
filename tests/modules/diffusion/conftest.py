"""Data whose optimal denoiser is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Prediction
from modules.diffusion.gaussian import epsilon_from_x0
from modules.diffusion.schedules import NoiseSchedule

GaussianDenoiser = Callable[[NoiseSchedule, Tensor, Tensor], Denoiser]
MixtureDenoiser = Callable[[NoiseSchedule, Tensor, Tensor, float], Denoiser]
MakeGenerators = Callable[..., list[torch.Generator]]


@pytest.fixture
def gaussian_denoiser() -> GaussianDenoiser:
    """(schedule, mean (D,), covariance (D, D)) -> E[x0 | x_t] of N(mean, covariance) over the last dimension."""

    def make(schedule: NoiseSchedule, mean: Tensor, covariance: Tensor) -> Denoiser:
        identity = torch.eye(len(mean), dtype=torch.float64)

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            assert bool((t == t[0]).all()), "this denoiser is for one timestep a batch"
            alpha_bar = schedule.alpha_bar[schedule.timesteps == t[0]]
            gain = alpha_bar.sqrt() * covariance @ torch.linalg.inv(alpha_bar * covariance + (1 - alpha_bar) * identity)
            x0 = mean + (x_t - alpha_bar.sqrt() * mean) @ gain.T
            return Prediction(x0, epsilon_from_x0(schedule, x0, x_t, t))

        return denoise

    return make


@pytest.fixture
def mixture_denoiser() -> MixtureDenoiser:
    """(schedule, means (K,), weights (K,), deviation) -> E[x0 | x_t] of a scalar Gaussian mixture, per element."""

    def make(schedule: NoiseSchedule, means: Tensor, weights: Tensor, deviation: float) -> Denoiser:
        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            alpha_bar = schedule.lookup(schedule.alpha_bar, t, x_t)[..., None]
            variance = alpha_bar * deviation**2 + 1 - alpha_bar
            offset = x_t[..., None] - alpha_bar.sqrt() * means
            share = torch.softmax(weights.log() - offset.square() / (2 * variance), dim=-1)
            each = means + alpha_bar.sqrt() * deviation**2 / variance * offset
            x0 = (share * each).sum(dim=-1)
            return Prediction(x0, epsilon_from_x0(schedule, x0, x_t, t))

        return denoise

    return make


@pytest.fixture
def generators() -> MakeGenerators:
    """(count, seed=0) -> that many generators with different seeds."""

    def make(count: int, seed: int = 0) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]

    return make
