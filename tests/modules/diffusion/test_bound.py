from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from modules.diffusion import bound as b
from modules.diffusion.analytic import ScoreStatistics, analytic_variance
from modules.diffusion.denoiser import Denoiser, Prediction
from modules.diffusion.gaussian import Gaussian, q_sample
from modules.diffusion.schedules import NoiseSchedule, cosine, linear, respace

F64 = torch.float64


def expected_bound(
    denoiser: Denoiser, schedule: NoiseSchedule, mean: Tensor, root: Tensor, variance: b.ModelVariance
) -> float:
    """E[bound] over N(mean, root root') and over the noise, exactly.

    For Gaussian data and its optimal denoiser every term is a quadratic in (x0, noise), whose expectation is its mean
    over symmetric points at distance sqrt(dimensions) along each axis (a cubature rule of degree 3).
    """
    d = len(mean)
    axes = math.sqrt(2 * d) * torch.eye(2 * d, dtype=F64)
    points = torch.cat([axes, -axes])
    x0, noise = mean + points[:, :d] @ root.T, points[:, d:]
    total = b.prior_term(schedule, x0)
    for timestep in schedule.timesteps.tolist():
        t = torch.full((len(x0),), timestep)
        x_t = q_sample(schedule, x0, t, noise)
        model = b.reverse_distribution(denoiser(x_t, t), schedule, x_t, t, variance)
        total = total + b.bound_term(schedule, model, x0, x_t, t, "gaussian")
    return float(total.mean())


def exact_statistics(schedule: NoiseSchedule, variances: Tensor) -> ScoreStatistics:
    """Of Gaussian data with these eigenvalues: epsilon is linear in x_t."""
    marginal = schedule.alpha_bar[:, None] * variances + 1 - schedule.alpha_bar[:, None]
    mean_square = ((1 - schedule.alpha_bar[:, None]) / marginal).mean(dim=1)
    return ScoreStatistics(schedule.timesteps, mean_square, float(variances.mean()), 1)


@pytest.mark.parametrize(
    ("schedule", "tolerance"), [(cosine(500), 1e-9), (linear(500), 1e-5), (respace(cosine(1000), 25), 1e-9)]
)
@pytest.mark.parametrize("deviation", [0.1, 2.0])
def test_bits_per_dimension_of_a_gaussian_are_its_entropy(
    schedule: NoiseSchedule, tolerance: float, deviation: float, gaussian_denoiser: Callable[..., Denoiser]
) -> None:
    """With the optimal mean and variance the bound is tight, at any number of steps.

    The linear schedule leaves alpha_bar = 4e-5 at its end, which costs the prior term 3e-6 bits.
    """
    mean, covariance = torch.tensor([0.3], dtype=F64), torch.tensor([[deviation**2]], dtype=F64)
    variance = analytic_variance(schedule, exact_statistics(schedule, covariance.diagonal())).variance
    found = expected_bound(gaussian_denoiser(schedule, mean, covariance), schedule, mean, covariance.sqrt(), variance)
    assert found == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * deviation**2), abs=tolerance)


def test_bits_per_dimension_of_a_correlated_gaussian(gaussian_denoiser: Callable[..., Denoiser]) -> None:
    """One variance for all directions costs 1e-3 bits at 500 steps; the two fixed variances cost more."""
    mean = torch.tensor([0.3, -0.5, 0.0], dtype=F64)
    root = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.6]], dtype=F64)
    covariance, schedule = root @ root.T, cosine(500)
    entropy = float(torch.logdet(covariance) / 3 + math.log(2 * math.pi * math.e)) / 2 / math.log(2)
    optimal = analytic_variance(schedule, exact_statistics(schedule, torch.linalg.eigvalsh(covariance))).variance
    denoiser = gaussian_denoiser(schedule, mean, covariance)
    variances: list[b.ModelVariance] = [optimal, "fixed_large", "fixed_small"]
    gaps = [expected_bound(denoiser, schedule, mean, root, v) - entropy for v in variances]
    assert 0 < gaps[0] < 1e-3 < gaps[1] < 0.25 < gaps[2] < 1


def test_variational_bound_of_samples(
    gaussian_denoiser: Callable[..., Denoiser], generators: Callable[..., list[torch.Generator]]
) -> None:
    """Every column is what its definition says, and the total of 256 x 64 draws is the entropy within 0.02 bits."""
    schedule = respace(cosine(1000), 20)
    mean, covariance = torch.zeros(1, dtype=F64), 0.25 * torch.ones(1, 1, dtype=F64)
    variance = analytic_variance(schedule, exact_statistics(schedule, covariance.diagonal())).variance
    denoiser = gaussian_denoiser(schedule, mean, covariance)
    x0 = 0.5 * torch.randn(256, 64, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = b.variational_bound(
        denoiser, schedule, x0, generators=generators(256), variance=variance, decoder="gaussian"
    )
    assert found.terms.shape == found.x0_mse.shape == found.epsilon_mse.shape == (256, 20)
    torch.testing.assert_close(found.total, found.prior + found.terms.sum(dim=1))
    assert found.total.mean().item() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * 0.25), abs=0.02)
    # What a Gaussian's x_t leaves unknown of x0, and of the noise.
    unknown = 0.25 * (1 - schedule.alpha_bar) / (0.25 * schedule.alpha_bar + 1 - schedule.alpha_bar)
    torch.testing.assert_close(found.x0_mse.mean(dim=0), unknown, rtol=0.05, atol=0)
    torch.testing.assert_close(found.epsilon_mse.mean(dim=0), unknown * schedule.snr, rtol=0.05, atol=0)
    alone = b.variational_bound(
        denoiser, schedule, x0[3:4], generators=generators(4)[3:], variance=variance, decoder="gaussian"
    )
    torch.testing.assert_close(alone.total, found.total[3:4], rtol=1e-12, atol=0)


def test_prior_term_is_the_divergence_from_the_standard_normal() -> None:
    schedule = respace(linear(1000), 7, "leading")
    x0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    last = Normal(schedule.signal[-1] * x0, schedule.noise[-1].expand(5, 3))
    expected = kl_divergence(last, Normal(torch.zeros(5, 3, dtype=F64), torch.ones(5, 3, dtype=F64)))
    torch.testing.assert_close(b.prior_term(schedule, x0), expected.mean(dim=1) / math.log(2))


def gaussians() -> tuple[Gaussian, Gaussian, Tensor]:
    draw = torch.Generator().manual_seed(0)
    m, n, lv, lw, x = (torch.randn(6, generator=draw, dtype=F64) for _ in range(5))
    return Gaussian(m, lv.exp(), lv), Gaussian(n, lw.exp(), lw), x


def test_divergence_and_density_are_torch_s() -> None:
    q, p, x = gaussians()
    q_torch, p_torch = Normal(q.mean, q.variance.sqrt()), Normal(p.mean, p.variance.sqrt())
    torch.testing.assert_close(b.gaussian_kl(q, p), kl_divergence(q_torch, p_torch))
    torch.testing.assert_close(b.gaussian_log_likelihood(x, p), p_torch.log_prob(x))


@pytest.mark.parametrize("mean", [-1.5, -1.0, 0.1, 0.9, 3.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.05, 3.0])
def test_discretised_likelihood_is_a_distribution_over_256_values(mean: float, deviation: float) -> None:
    values = torch.arange(256, dtype=F64) / 127.5 - 1
    p = Gaussian(*(torch.tensor(v, dtype=F64) for v in (mean, deviation**2, 2 * math.log(deviation))))
    found = b.discretised_log_likelihood(values, p)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-9)
    cdf = Normal(p.mean, deviation).cdf(values[:-1] + 1 / 255)
    expected = torch.cat([cdf[:1], cdf.diff(), 1 - cdf[-1:]])
    torch.testing.assert_close(found.exp(), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_discretised_likelihood_and_its_gradient_far_in_the_tails(dtype: torch.dtype) -> None:
    """Where a difference of distribution functions is 0, the log is that of the tail's leading term."""
    x = torch.tensor([0.5, 0.5, -1.0, 1.0], dtype=dtype)
    mean = torch.tensor([-900.0, 900.0, 1000.0, -1000.0], dtype=dtype, requires_grad=True)
    log_variance = torch.zeros(4, dtype=dtype)
    found = b.discretised_log_likelihood(x, Gaussian(mean, log_variance.exp(), log_variance))
    edge = torch.tensor([900.5, 899.5, 1001.0, 1001.0], dtype=dtype) - 1 / 255
    torch.testing.assert_close(found, -0.5 * edge**2 - torch.log(edge * math.sqrt(2 * math.pi)), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), mean)
    torch.testing.assert_close(gradient, edge * torch.tensor([1.0, -1, -1, 1], dtype=dtype), rtol=1e-3, atol=0)


def test_reverse_distribution_has_the_variance_that_is_asked_for() -> None:
    schedule = cosine(10)
    x_t, x0 = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    t = torch.tensor([0, 6])
    prediction = Prediction(x0, x0, torch.full_like(x0, 0.25))
    own = torch.linspace(0.1, 1, 10, dtype=F64)
    tilde, beta = schedule.posterior_variance, schedule.betas
    expected = {
        "fixed_small": [tilde[1], tilde[6]],
        "fixed_large": [tilde[1], beta[6]],
        "learned": [tilde[1] ** 0.75 * beta[0] ** 0.25, tilde[6] ** 0.75 * beta[6] ** 0.25],
    }
    for name, values in expected.items():
        found = b.reverse_distribution(prediction, schedule, x_t, t, name)  # type: ignore[arg-type]
        torch.testing.assert_close(found.variance[:, 0], torch.stack(values))
        torch.testing.assert_close(found.log_variance, found.variance.log())
        mean = schedule.posterior_x0_coefficient[6] * x0[1] + schedule.posterior_xt_coefficient[6] * x_t[1]
        torch.testing.assert_close(found.mean, torch.stack([x0[0], mean]))
    found = b.reverse_distribution(prediction, schedule, x_t, t, own)
    torch.testing.assert_close(found.variance[:, 0], own[t])


def test_what_cannot_be_bounded_is_refused() -> None:
    schedule, x, t = cosine(10), torch.zeros(1, 2), torch.tensor([3])
    plain = Prediction(x, x)
    with pytest.raises(ValueError, match="learned variance needs"):
        b.reverse_distribution(plain, schedule, x, t, "learned")
    with pytest.raises(ValueError, match="unknown variance 'big'"):
        b.reverse_distribution(plain, schedule, x, t, "big")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown decoder 'vae'"):
        b.bound_term(schedule, Gaussian(x, x, x), x, x, t, "vae")  # type: ignore[arg-type]


def test_an_optimal_variance_of_nothing_at_the_first_step_has_a_likelihood(gaussian_denoiser):
    """Analytic-DPM's is clamped to 0 there if the network's epsilon is as large as the noise; beta-tilde then."""
    schedule = respace(cosine(1000), 10, "adm")
    mean, covariance = torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64) / 4
    denoiser = gaussian_denoiser(schedule, mean, covariance)
    x0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64) / 2
    square = torch.full((10,), 0.9, dtype=F64)
    square[0] = 1.001
    statistics = ScoreStatistics(schedule.timesteps, square, 0.25, 7)
    variance = analytic_variance(schedule, statistics).variance
    assert variance[0] == 0 and (variance[1:] > 0).all()
    small = variance.clone()
    small[0] = schedule.posterior_variance[1]
    found, expected = (
        b.variational_bound(
            denoiser, schedule, x0, generators=[torch.Generator().manual_seed(k) for k in range(5)], variance=of,
            decoder="gaussian",
        )
        for of in (variance, small)
    )  # fmt: skip
    assert found.total.isfinite().all()
    assert torch.equal(found.terms, expected.terms)
