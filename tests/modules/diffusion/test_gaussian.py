from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modules.diffusion import gaussian as g
from modules.diffusion.schedules import NoiseSchedule, at_positions, cosine, linear, respace

F64 = torch.float64
EPS = torch.finfo(F64).eps


@st.composite
def schedules(draw: st.DrawFn) -> NoiseSchedule:
    """Any schedule: log-SNR falls from somewhere to somewhere in [-25, 15], timesteps have gaps."""
    log_snr = sorted(draw(st.sets(st.integers(-2500, 1500), min_size=1, max_size=20)), reverse=True)
    gaps = draw(st.lists(st.integers(1, 40), min_size=len(log_snr), max_size=len(log_snr)))
    alpha_bar = torch.sigmoid(torch.tensor(log_snr, dtype=F64) / 100)
    return NoiseSchedule(alpha_bar, torch.tensor(gaps).cumsum(0) - gaps[0])


def assert_round_trips(schedule: NoiseSchedule, seed: int = 0) -> None:
    """All conversions there and back, at every timestep, within a few roundings of the largest term of each formula.

    Where a conversion divides by a (signal) or s (noise), the rounding of its numerator is magnified as much, in any
    implementation, so the tolerance is 16 eps times that magnification.
    """
    draw = torch.Generator().manual_seed(seed)
    t = schedule.timesteps
    x0 = torch.randn(len(t), 3, 2, generator=draw, dtype=F64)
    noise = torch.randn(len(t), 3, 2, generator=draw, dtype=F64)
    a, s = schedule.signal[:, None, None], schedule.noise[:, None, None]
    x_t = g.q_sample(schedule, x0, t, noise)
    size = x0.abs() + noise.abs()
    v = g.velocity(schedule, x0, noise, t)

    def near(actual: Tensor, expected: Tensor, magnification: Tensor | float) -> None:
        assert bool(((actual - expected).abs() <= 16 * EPS * size * magnification).all())

    near(g.x0_from_epsilon(schedule, noise, x_t, t), x0, 1 / a)
    near(g.epsilon_from_x0(schedule, x0, x_t, t), noise, 1 / s)
    near(g.x0_from_v(schedule, v, x_t, t), x0, 1.0)
    near(g.epsilon_from_v(schedule, v, x_t, t), noise, 1.0)
    near(g.x0_from_epsilon(schedule, g.epsilon_from_x0(schedule, x0, x_t, t), x_t, t), x0, 1 / a)
    near(g.epsilon_from_x0(schedule, g.x0_from_epsilon(schedule, noise, x_t, t), x_t, t), noise, 1 / s)
    near(g.velocity(schedule, g.x0_from_v(schedule, v, x_t, t), g.epsilon_from_v(schedule, v, x_t, t), t), v, 1.0)


@pytest.mark.parametrize("schedule", [cosine(1000), linear(1000)], ids=["cosine", "linear"])
def test_round_trips_at_all_1000_timesteps(schedule: NoiseSchedule) -> None:
    assert_round_trips(schedule)


@settings(deadline=None)
@given(schedules(), st.integers(0, 2**31))
def test_round_trips_for_any_schedule(schedule: NoiseSchedule, seed: int) -> None:
    assert_round_trips(schedule, seed)


def test_q_sample_has_the_mean_and_variance_of_the_forward_process() -> None:
    schedule = cosine(1000)
    x0, noise = torch.tensor([[2.0], [2.0]], dtype=F64), torch.tensor([[0.0], [3.0]], dtype=F64)
    x_t = g.q_sample(schedule, x0, torch.tensor([700, 700]), noise).flatten()
    assert x_t[0].item() == pytest.approx(2 * schedule.alpha_bar[700].sqrt().item())
    assert (x_t[1] - x_t[0]).item() == pytest.approx(3 * (1 - schedule.alpha_bar[700]).sqrt().item())


@pytest.mark.parametrize("schedule", [cosine(1000), linear(1000), respace(cosine(1000), 25)], ids=["cos", "lin", "25"])
def test_posterior_is_bayes_rule(schedule: NoiseSchedule) -> None:
    """q(x_{t-1} | x_t, x0) from the product of q(x_{t-1} | x0) and q(x_t | x_{t-1}), by precisions."""
    t = schedule.timesteps[1:]
    previous, alpha = schedule.alpha_bar[:-1], schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    x0, x_t = torch.randn(2, len(t), 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    precision = 1 / (1 - previous) + alpha / (1 - alpha)
    mean = (previous.sqrt() / (1 - previous) * x0[:, 0] + alpha.sqrt() / (1 - alpha) * x_t[:, 0]) / precision
    found = g.posterior(schedule, x0, x_t, t)
    torch.testing.assert_close(found.mean[:, 0], mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.variance[:, 0], 1 / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.log_variance, found.variance.log(), rtol=1e-12, atol=1e-12)


def test_posterior_at_the_first_step_is_the_data() -> None:
    schedule = cosine(1000)
    x0, x_t = torch.randn(2, 1, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = g.posterior(schedule, x0, x_t, torch.tensor([0]))
    torch.testing.assert_close(found.mean, x0, rtol=1e-14, atol=0)
    assert found.variance.item() == 0
    assert found.log_variance.item() == pytest.approx(schedule.posterior_variance[1].log().item())


def test_learned_variance_lies_between_beta_tilde_and_beta() -> None:
    schedule = respace(cosine(1000), 50)
    t = schedule.timesteps[1:]
    low, high = schedule.posterior_variance[1:], schedule.betas[1:]
    for fraction, expected in [(0.0, low), (1.0, high), (0.5, (low * high).sqrt()), (2.0, high**2 / low)]:
        found = g.learned_log_variance(schedule, torch.full((49, 1), fraction, dtype=F64), t).exp()
        torch.testing.assert_close(found[:, 0], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("parameterization", ["x0", "epsilon", "v"])
def test_a_perfect_output_gives_back_data_and_noise(parameterization: g.Parameterization) -> None:
    schedule = cosine(1000)
    t = torch.tensor([0, 400, 998])
    x0, noise = torch.randn(2, 3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    output = g.training_target(schedule, x0, noise, t, parameterization)
    found = g.x0_and_epsilon(schedule, output, g.q_sample(schedule, x0, t, noise), t, parameterization)
    torch.testing.assert_close(found, (x0, noise), rtol=1e-9, atol=1e-11)


def test_velocity_is_the_derivative_along_the_circle() -> None:
    """With a = cos(phi) and s = sin(phi), v = d x_t / d phi."""
    phi, step = 0.9, 1e-6
    angles = torch.tensor([phi - step, phi, phi + step], dtype=F64)
    schedule = at_positions(NoiseSchedule(torch.cos(angles) ** 2, torch.arange(3)), [0, 1, 2])
    x0, noise = torch.tensor([[0.7]], dtype=F64), torch.tensor([[-1.3]], dtype=F64)
    low, high = (g.q_sample(schedule, x0, torch.tensor([k]), noise) for k in (0, 2))
    v = g.velocity(schedule, x0, noise, torch.tensor([1]))
    torch.testing.assert_close((high - low) / (2 * step), v, rtol=1e-8, atol=0)


def test_unknown_parameterization_is_refused_by_name() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="unknown parameterization 'x1'"):
        g.x0_and_epsilon(cosine(10), x, x, torch.tensor([1]), "x1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown parameterization 'x1'"):
        g.training_target(cosine(10), x, x, torch.tensor([1]), "x1")  # type: ignore[arg-type]
