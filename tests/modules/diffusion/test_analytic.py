from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.diffusion import analytic as a
from modules.diffusion.bound import ModelVariance, bound_term, reverse_distribution
from modules.diffusion.denoiser import Denoiser
from modules.diffusion.gaussian import q_sample
from modules.diffusion.noise import randn_per_image
from modules.diffusion.samplers import analytic_dpm, ddpm
from modules.diffusion.schedules import NoiseSchedule, at_positions, cosine, linear, rescale_zero_terminal_snr, respace

F64 = torch.float64
SCHEDULE = cosine(1000)
MakeDenoiser = Callable[..., Denoiser]

# Two narrow modes: what x_t leaves unknown of x0 depends on the noise level in no simple way.
MEANS, WEIGHTS, DEVIATION = torch.tensor([-1.0, 1.0], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64), 0.1


def mixture_data(shape: tuple[int, ...], seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    side = (torch.rand(shape, generator=draw) < 0.5).to(F64) * 2 - 1
    return side + DEVIATION * torch.randn(shape, generator=draw, dtype=F64)


def gaussian_statistics(schedule: NoiseSchedule, variance: float) -> a.ScoreStatistics:
    mean_square = (1 - schedule.alpha_bar) / (schedule.alpha_bar * variance + 1 - schedule.alpha_bar)
    return a.ScoreStatistics(schedule.timesteps, mean_square, variance, 1)


def test_the_estimate_for_a_gaussian_is_the_closed_form(gaussian_denoiser: MakeDenoiser) -> None:
    """From 32,768 numbers: the statistic within 2 %, the variances that come of it within 5 %, at every noise level."""
    schedule = respace(SCHEDULE, 12)
    denoiser = gaussian_denoiser(SCHEDULE, torch.tensor([0.5], dtype=F64), torch.tensor([[0.09]], dtype=F64))
    x0 = 0.5 + 0.3 * torch.randn(256, 128, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    draw = torch.Generator().manual_seed(1)
    found = a.estimate_statistics([(denoiser, x0[:100]), (denoiser, x0[100:])], schedule, draw)
    exact = gaussian_statistics(schedule, 0.09)
    assert found.count == 256
    assert found.data_variance == pytest.approx(0.09, rel=0.03)
    assert found.timesteps.tolist() == schedule.timesteps.tolist()
    torch.testing.assert_close(found.mean_squared_epsilon, exact.mean_squared_epsilon, rtol=0.02, atol=0)
    # At the noisiest level 1 minus it is 2e-10, which a plain mean of squares would miss by 1e-2.
    torch.testing.assert_close(found.mean_squared_epsilon[-1], exact.mean_squared_epsilon[-1], rtol=0, atol=1e-11)
    for eta in (0.0, 1.0):
        variance = a.analytic_variance(schedule, found, eta).variance
        torch.testing.assert_close(variance, a.analytic_variance(schedule, exact, eta).variance, rtol=0.05, atol=0)


def test_data_variance_is_that_of_each_dimension_about_its_own_mean(gaussian_denoiser: MakeDenoiser) -> None:
    x0 = torch.tensor([[1.0, 10.0], [3.0, 10.0]], dtype=F64)
    denoiser = gaussian_denoiser(SCHEDULE, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    found = a.estimate_statistics([(denoiser, x0)], respace(SCHEDULE, 2), torch.Generator().manual_seed(0))
    assert found.data_variance == pytest.approx(0.5)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("schedule", [SCHEDULE, respace(SCHEDULE, 10), linear(1000)], ids=["cosine", "ten", "linear"])
def test_variance_of_known_data_is_the_closed_form(schedule: NoiseSchedule, eta: float) -> None:
    """For N(0, c): the step's own variance, and how far its mean moves with x0, times Var(x0 | x_t)."""
    c = 0.3
    found = a.analytic_variance(schedule, gaussian_statistics(schedule, c), eta)
    unknown = c * (1 - schedule.alpha_bar) / (c * schedule.alpha_bar + 1 - schedule.alpha_bar)
    own = eta**2 * schedule.posterior_variance
    rest = (1 - schedule.alpha_bar_prev - own).sqrt()
    moves = schedule.alpha_bar_prev.sqrt() - rest * schedule.signal / schedule.noise
    torch.testing.assert_close(found.variance, own + moves**2 * unknown, rtol=1e-6, atol=1e-13)
    assert bool((found.lower <= found.variance).all() and (found.variance <= found.upper).all())


def test_variance_in_the_ddpm_form_is_that_of_the_true_reverse_step() -> None:
    """Var(x_{t-1} | x_t) of a Gaussian, from the joint covariance of the two."""
    schedule, c = respace(SCHEDULE, 8), 0.3
    found = a.analytic_variance(schedule, gaussian_statistics(schedule, c)).variance
    now = c * schedule.alpha_bar + 1 - schedule.alpha_bar
    before = c * schedule.alpha_bar_prev + 1 - schedule.alpha_bar_prev
    covariance = schedule.alphas.sqrt() * before
    torch.testing.assert_close(found, before - covariance**2 / now, rtol=1e-6, atol=1e-12)


def test_statistics_out_of_bounds_are_clipped_to_them() -> None:
    """A poor network or few samples: 1 - statistic may be negative, or far too large."""
    schedule = respace(SCHEDULE, 10)
    for value, which in [(1.5, "lower"), (-1e6, "upper")]:
        statistics = a.ScoreStatistics(schedule.timesteps, torch.full((10,), value, dtype=F64), 0.3, 1)
        found = a.analytic_variance(schedule, statistics)
        assert torch.equal(found.variance, getattr(found, which))


def test_upper_bounds() -> None:
    """That of any data, and that of data with this variance: each is the smaller one for some data."""
    schedule = respace(SCHEDULE, 10)
    own, prev = schedule.posterior_variance, schedule.alpha_bar_prev
    rest = (1 - prev - own).clamp(min=0).sqrt()
    anything = own + (schedule.noise / schedule.alphas.sqrt() - rest) ** 2
    per_x0 = (prev.sqrt() - rest * schedule.signal / schedule.noise) ** 2

    def upper(data_variance: float) -> Tensor:
        statistics = a.ScoreStatistics(schedule.timesteps, torch.zeros(10, dtype=F64), data_variance, 1)
        return a.analytic_variance(schedule, statistics).upper

    torch.testing.assert_close(upper(1e12), anything, rtol=1e-9, atol=0)
    torch.testing.assert_close(upper(0.2), torch.minimum(anything, own + 0.2 * per_x0), rtol=1e-9, atol=0)


def bound_under(denoiser: Denoiser, schedule: NoiseSchedule, variance: ModelVariance) -> float:
    """Sum of the bound's KL terms in bits (all but the last step's), with the same draws whatever the variance."""
    x0 = mixture_data((64, 128), seed=5)
    total = 0.0
    for timestep in schedule.timesteps[1:].tolist():
        t = torch.full((64,), timestep)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(timestep), dtype=F64)
        x_t = q_sample(schedule, x0, t, noise)
        model = reverse_distribution(denoiser(x_t, t), schedule, x_t, t, variance)
        total += float(bound_term(schedule, model, x0, x_t, t).mean())
    return total


def distance_to_mixture(x: Tensor) -> float:
    """Wasserstein-1 distance to the mixture, by sorted samples against 200,000 of the truth."""
    truth = mixture_data((200_000,), seed=9).sort().values
    index = ((torch.arange(x.numel()) + 0.5) / x.numel() * len(truth)).long()
    return float((x.flatten().sort().values - truth[index]).abs().mean())


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_on_a_mixture_the_analytic_variance_beats_both_fixed_ones(
    steps: int, mixture_denoiser: MakeDenoiser, generators: Callable[..., list[torch.Generator]]
) -> None:
    denoiser = mixture_denoiser(SCHEDULE, MEANS, WEIGHTS, DEVIATION)
    schedule = respace(SCHEDULE, steps)
    batches = [(denoiser, mixture_data((64, 128), seed)) for seed in (1, 2)]
    statistics = a.estimate_statistics(batches, schedule, torch.Generator().manual_seed(3))
    analytic = a.analytic_variance(schedule, statistics)
    assert bool((analytic.lower <= analytic.variance).all() and (analytic.variance <= analytic.upper).all())
    assert bool((analytic.variance > analytic.lower).any() and (analytic.variance < analytic.upper).any())

    best = bound_under(denoiser, schedule, analytic.variance)
    for fixed in ("fixed_small", "fixed_large"):
        assert best < bound_under(denoiser, schedule, fixed) - 0.01  # type: ignore[arg-type]

    x_T = randn_per_image(generators(4), (4, 5000), "cpu", F64)
    distances = [
        distance_to_mixture(sampler(denoiser, schedule, x_T, generators=generators(4, seed=1)))
        for sampler in (partial(analytic_dpm, statistics=statistics), ddpm, partial(ddpm, variance="fixed_large"))
    ]
    assert distances[0] < min(distances[1:])


def test_statistics_survive_a_safetensors_file(tmp_path: Path) -> None:
    statistics = a.ScoreStatistics(torch.tensor([0, 7]), torch.tensor([0.25, 0.5], dtype=F64), 0.125, 50_000)
    save_file(statistics.to_tensors(), tmp_path / "statistics.safetensors")
    found = a.ScoreStatistics.from_tensors(load_file(tmp_path / "statistics.safetensors"))
    assert found.timesteps.tolist() == [0, 7] and found.mean_squared_epsilon.tolist() == [0.25, 0.5]
    assert found.data_variance == 0.125 and found.count == 50_000
    assert found.mean_squared_epsilon.dtype == F64


def test_a_trajectory_within_the_measured_timesteps_is_enough(gaussian_denoiser: MakeDenoiser) -> None:
    full = gaussian_statistics(SCHEDULE, 0.3)
    schedule = respace(SCHEDULE, 10)
    found = a.analytic_variance(schedule, full).variance
    assert torch.equal(found, a.analytic_variance(schedule, gaussian_statistics(schedule, 0.3)).variance)


def test_what_cannot_be_computed_is_refused() -> None:
    schedule = respace(SCHEDULE, 10)
    with pytest.raises(ValueError, match=r"lack timesteps \[0\]"):
        a.analytic_variance(respace(SCHEDULE, 12), gaussian_statistics(at_positions(SCHEDULE, range(91, 1000)), 1.0))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        a.analytic_variance(rescale_zero_terminal_snr(schedule), gaussian_statistics(schedule, 1.0))
    with pytest.raises(ValueError, match="no data"):
        a.estimate_statistics([], schedule, torch.Generator())
