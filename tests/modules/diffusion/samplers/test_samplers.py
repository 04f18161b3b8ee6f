from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from modules.diffusion import samplers as s
from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.denoiser import Denoiser, Prediction, as_denoiser
from modules.diffusion.gaussian import epsilon_from_x0
from modules.diffusion.noise import randn_per_image
from modules.diffusion.samplers import loop
from modules.diffusion.samplers.dpm_solver import dpm_solver_pp_step
from modules.diffusion.schedules import NoiseSchedule, cosine, rescale_zero_terminal_snr, respace

F64 = torch.float64
SCHEDULE = cosine(1000)
MEAN = torch.tensor([0.3, -0.5, 0.0], dtype=F64)
ROOT = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.6]], dtype=F64)
COVARIANCE = ROOT @ ROOT.T

MakeDenoiser = Callable[[NoiseSchedule, Tensor, Tensor], Denoiser]
MakeGenerators = Callable[..., list[torch.Generator]]


def exact_statistics(variances: Tensor) -> ScoreStatistics:
    marginal = SCHEDULE.alpha_bar[:, None] * variances + 1 - SCHEDULE.alpha_bar[:, None]
    mean_square = ((1 - SCHEDULE.alpha_bar[:, None]) / marginal).mean(dim=1)
    return ScoreStatistics(SCHEDULE.timesteps, mean_square, float(variances.mean()), 1)


STATISTICS = exact_statistics(torch.linalg.eigvalsh(COVARIANCE))
SAMPLERS = {
    "ddpm small": s.ddpm,
    "ddpm large": partial(s.ddpm, variance="fixed_large"),
    "ddpm learned": partial(s.ddpm, variance="learned"),
    "ddim": s.ddim,
    "ddim eta": partial(s.ddim, eta=0.7),
    "analytic": partial(s.analytic_dpm, statistics=STATISTICS),
    "analytic ddim": partial(s.analytic_dpm, statistics=STATISTICS, eta=0.0),
    "dpm++": s.dpm_solver_pp,
    "dpm++ sde": partial(s.dpm_solver_pp, sde=True),
    "inversion": partial(s.ddim_invert, fixed_point_iterations=2),
}
NOISELESS = ("ddim", "dpm++", "inversion")


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    return flat.mean(dim=0), torch.cov(flat.T).reshape(x.shape[-1], -1)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("ddpm small", 0.09),
        ("ddpm large", 0.03),
        ("analytic", 0.035),
        ("analytic ddim", 0.015),
        ("ddim", 0.04),
        ("ddim eta", 0.08),
        ("dpm++", 0.008),
        ("dpm++ sde", 0.035),
    ],
)
def test_correlated_gaussian_in_100_steps(
    name: str, tolerance: float, gaussian_denoiser: MakeDenoiser, generators: MakeGenerators
) -> None:
    """Mean within 0.015 of each coordinate; covariance within the tolerance, relative, in the Frobenius norm."""
    denoiser = gaussian_denoiser(SCHEDULE, MEAN, COVARIANCE)
    x_T = randn_per_image(generators(8), (8, 4096, 3), "cpu", F64)
    x_T = x_T - x_T.mean(dim=(0, 1))
    x_T = x_T @ torch.linalg.inv(torch.linalg.cholesky(moments(x_T)[1])).T
    mean, covariance = moments(SAMPLERS[name](denoiser, respace(SCHEDULE, 100), x_T, generators=generators(8, seed=1)))
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.015)
    assert float((covariance - COVARIANCE).norm() / COVARIANCE.norm()) < tolerance


SCALAR = torch.tensor([0.4], dtype=F64), torch.tensor([[0.25]], dtype=F64)
CORRELATED = MEAN, COVARIANCE


def exact_moments(
    sampler: Callable[..., Tensor], denoiser: Denoiser, d: int, steps: int, noisy: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a sampler's output over all starts and all noise, without chance.

    With a linear denoiser the output is affine in the start and in every step's noise. Such a map has the mean and
    covariance that it has over symmetric points at distance sqrt(dimensions) along each axis (cubature of degree 3).
    """
    draws = steps if noisy else 1
    axes = math.sqrt(draws * d) * torch.eye(draws * d, dtype=F64).reshape(-1, draws, d)
    points = iter(torch.cat([axes, -axes]).unbind(dim=1))
    monkeypatch.setattr(loop, "randn_per_image", lambda *args: next(points))
    out = sampler(denoiser, respace(SCHEDULE, steps), next(points), generators=[])
    assert next(points, None) is None, "not all of the noise was asked for"
    mean = out.mean(dim=0)
    return mean, (out - mean).T @ (out - mean) / len(out)


@pytest.mark.parametrize(
    ("name", "scalar", "correlated"),
    [
        ("ddpm small", (7.1e-2, 8.1e-3), (6.0e-2, 6.8e-3)),
        ("ddpm large", (1.9e-2, 1.7e-3), (1.3e-2, 1.1e-3)),
        ("analytic", (1.7e-4, 1.7e-4), (8.7e-3, 9.3e-4)),
        ("analytic ddim", (1.7e-4, 1.7e-4), (5.6e-3, 6.1e-4)),
        ("ddim", (3.1e-2, 3.3e-3), (2.8e-2, 2.9e-3)),
        ("ddim eta", (4.8e-2, 5.4e-3), (4.2e-2, 4.6e-3)),
        ("dpm++", (7.9e-3, 9.1e-5), (5.5e-3, 6.9e-5)),
        ("dpm++ sde", (3.2e-2, 1.7e-4), (2.3e-2, 1.2e-4)),
    ],
)
def test_moments_of_gaussian_data_converge(
    name: str,
    scalar: tuple[float, float],
    correlated: tuple[float, float],
    gaussian_denoiser: MakeDenoiser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mean within 2e-5; covariance within these relative errors at 100 and at 1,000 steps (Frobenius norm).

    Ten times the steps, a tenth of the error, and for the second-order solver nearer to a hundredth. Analytic-DPM is
    exact for scalar data but for its last step, which adds no noise.
    """
    for (mean, covariance), tolerances in [(SCALAR, scalar), (CORRELATED, correlated)]:
        denoiser = gaussian_denoiser(SCHEDULE, mean, covariance)
        sampler = SAMPLERS[name]
        if name.startswith("analytic"):
            sampler = partial(sampler, statistics=exact_statistics(torch.linalg.eigvalsh(covariance)))
        for steps, tolerance in zip((100, 1000), tolerances, strict=True):
            found = exact_moments(sampler, denoiser, len(mean), steps, name not in NOISELESS, monkeypatch)
            torch.testing.assert_close(found[0], mean, rtol=0, atol=2e-5)
            error = float((found[1] - covariance).norm() / covariance.norm())
            assert 0.9 * tolerance < error < tolerance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [5, 20])
def test_analytic_dpm_is_exact_for_scalar_data_at_any_number_of_steps(
    eta: float, steps: int, gaussian_denoiser: MakeDenoiser, generators: MakeGenerators
) -> None:
    """65,536 draws: mean within 0.01, variance within 2 %, where ddpm in 20 steps loses 25 % and more."""
    mean, variance = torch.tensor([0.4], dtype=F64), torch.tensor([[0.25]], dtype=F64)
    denoiser, schedule = gaussian_denoiser(SCHEDULE, mean, variance), respace(SCHEDULE, steps)
    x_T = randn_per_image(generators(8), (8, 8192, 1), "cpu", F64)
    sampler = partial(s.analytic_dpm, statistics=exact_statistics(variance[0]), eta=eta)
    found = moments(sampler(denoiser, schedule, x_T, generators=generators(8, seed=1)))
    torch.testing.assert_close(found[0], mean, rtol=0, atol=0.01)
    torch.testing.assert_close(found[1], variance, rtol=0.02, atol=0)
    ancestral = moments(s.ddpm(denoiser, schedule, x_T, generators=generators(8, seed=1)))
    assert ancestral[1].item() < 0.75 * 0.25


def even_in_log_snr(steps: int) -> NoiseSchedule:
    """A continuous-time view: as many levels as steps + 1, half the log-SNR going evenly from 3 to -3."""
    half = torch.linspace(3, -3, steps + 1, dtype=F64)
    return NoiseSchedule(torch.sigmoid(2 * half), torch.arange(steps + 1))


def exact_flow(schedule: NoiseSchedule, x_T: Tensor) -> Tensor:
    """The probability flow of N(MEAN, COVARIANCE) from the last to the first level (in the covariance's eigenbasis)."""
    values, basis = torch.linalg.eigh(COVARIANCE)
    ends = schedule.alpha_bar[[0, -1]]
    scale = torch.sqrt(ends[:, None] * values + 1 - ends[:, None])
    centred = (x_T - ends[1].sqrt() * MEAN) @ basis
    return ends[0].sqrt() * MEAN + (centred * scale[0] / scale[1]) @ basis.T


def order_of_convergence(error_at: Callable[[int], float]) -> float:
    steps = torch.tensor([16, 32, 64, 128], dtype=F64)
    logs = torch.tensor([error_at(int(n)) for n in steps], dtype=F64).log()
    x = steps.log() - steps.log().mean()
    return -float((x * (logs - logs.mean())).sum() / x.square().sum())


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(s.ddim, 1.0), (partial(s.dpm_solver_pp, order=1), 1.0), (s.dpm_solver_pp, 2.0)],
    ids=["ddim", "dpm++ 1", "dpm++ 2"],
)
def test_order_of_convergence(sampler: Callable[..., Tensor], order: float, gaussian_denoiser: MakeDenoiser) -> None:
    """The fitted slope of log error over log steps, against the exact flow, within 0.1."""
    x_T = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)

    def error_at(steps: int) -> float:
        schedule = even_in_log_snr(steps)
        path: list[Tensor] = []
        denoiser = gaussian_denoiser(schedule, MEAN, COVARIANCE)
        sampler(denoiser, schedule, x_T, on_step=lambda step: path.append(step.x))
        # The step before the last arrives at the first level; the last one only takes the remaining noise off.
        return float((path[-2] - exact_flow(schedule, x_T)).abs().max())

    assert order_of_convergence(error_at) == pytest.approx(order, abs=0.1)


def test_first_order_solver_is_ddim(gaussian_denoiser: MakeDenoiser) -> None:
    denoiser, schedule = gaussian_denoiser(SCHEDULE, MEAN, COVARIANCE), respace(SCHEDULE, 10)
    x_T = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(s.dpm_solver_pp(denoiser, schedule, x_T, order=1), s.ddim(denoiser, schedule, x_T))


def test_ddim_with_eta_one_is_ddpm(gaussian_denoiser: MakeDenoiser, generators: MakeGenerators) -> None:
    denoiser, schedule = gaussian_denoiser(SCHEDULE, MEAN, COVARIANCE), respace(SCHEDULE, 10)
    x_T = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    ddpm, ddim = (f(denoiser, schedule, x_T, generators=generators(6)) for f in (s.ddpm, partial(s.ddim, eta=1.0)))
    torch.testing.assert_close(ddpm, ddim, rtol=1e-9, atol=1e-9)


def round_trip_error(denoiser: Denoiser, schedule: NoiseSchedule, x: Tensor, iterations: int = 0) -> float:
    latent = s.ddim_invert(denoiser, schedule, x, fixed_point_iterations=iterations)
    return float((s.ddim(denoiser, schedule, latent) - x).abs().max())


def test_inversion_comes_back_with_an_error_of_first_order(gaussian_denoiser: MakeDenoiser) -> None:
    denoiser = gaussian_denoiser(SCHEDULE, MEAN, COVARIANCE)
    x = MEAN + torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=F64) @ ROOT.T
    errors = {n: round_trip_error(denoiser, respace(SCHEDULE, n), x) for n in (16, 32, 64, 128, 1000)}
    assert order_of_convergence(errors.__getitem__) == pytest.approx(1, abs=0.25)
    assert errors[1000] < 0.01 < errors[16]


@pytest.mark.parametrize("steps", [3, 5, 10, 50])
def test_fixed_point_inversion_is_exact_to_rounding(steps: int, mixture_denoiser: Callable[..., Denoiser]) -> None:
    """On data where the flow is far from linear; every iteration shrinks the error, until 1e-13 after 12."""
    denoiser = mixture_denoiser(
        SCHEDULE, torch.tensor([-1.0, 0.6], dtype=F64), torch.tensor([0.3, 0.7], dtype=F64), 0.3
    )
    schedule = respace(SCHEDULE, steps)
    x = torch.linspace(-1.5, 1.2, 40, dtype=F64)[:, None]
    errors = [round_trip_error(denoiser, schedule, x, n) for n in (0, 1, 3, 12)]
    assert errors[0] > 0.1 and errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-13


def test_inversion_of_a_gaussian_gives_standard_normal_latents(gaussian_denoiser: MakeDenoiser) -> None:
    denoiser = gaussian_denoiser(SCHEDULE, MEAN, COVARIANCE)
    values, basis = torch.linalg.eigh(COVARIANCE)
    points = torch.cat([torch.eye(3), -torch.eye(3)]).to(F64)
    latent = s.ddim_invert(denoiser, SCHEDULE, MEAN + points @ (basis * values.sqrt()).T, fixed_point_iterations=3)
    torch.testing.assert_close(latent @ basis, points, rtol=0, atol=0.01)


def elementwise(x_t: Tensor, t: Tensor) -> Prediction:
    """A denoiser whose rows cannot see each other."""
    x0 = torch.tanh(x_t * 0.8 + 0.001 * t.reshape(-1, *([1] * (x_t.ndim - 1))))
    return Prediction(x0, epsilon_from_x0(SCHEDULE, x0, x_t, t), torch.sigmoid(x_t))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (5, 6)])
def test_an_image_does_not_depend_on_its_batch(name: str, shape: tuple[int, ...], generators: MakeGenerators) -> None:
    schedule = respace(SCHEDULE, 6)
    x_T = randn_per_image(generators(5), shape, "cpu")
    together = SAMPLERS[name](elementwise, schedule, x_T, generators=generators(5, seed=1))
    alone = SAMPLERS[name](elementwise, schedule, x_T[2:4], generators=generators(5, seed=1)[2:4])
    assert together.shape == shape and together.dtype == torch.float32
    assert torch.equal(together[2:4], alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_reports(name: str, generators: MakeGenerators) -> None:
    schedule = respace(SCHEDULE, 4)
    steps: list[s.Step] = []
    x = SAMPLERS[name](elementwise, schedule, torch.ones(2, 3), generators=generators(2), on_step=steps.append)
    timesteps = [0, 333, 666, 999] if name == "inversion" else [999, 666, 333, 0]
    assert [(step.number, step.total, step.timestep) for step in steps] == [(i, 4, t) for i, t in enumerate(timesteps)]
    assert torch.equal(steps[-1].x, x)
    if name != "inversion":
        assert torch.equal(steps[0].x0, elementwise(torch.ones(2, 3), torch.tensor([999, 999])).x0)
        # The last step goes to the estimate itself.
        torch.testing.assert_close(x, steps[-1].x0, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_graph_is_kept_and_float64_stays(name: str, generators: MakeGenerators) -> None:
    network = nn.Linear(3, 3).to(F64)

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        return elementwise(network(x_t), t)

    x = SAMPLERS[name](denoise, respace(SCHEDULE, 3), torch.ones(2, 3, dtype=F64), generators=generators(2))
    assert not x.requires_grad and x.dtype == F64


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - set(NOISELESS)))
def test_noise_needs_one_generator_per_image(name: str, generators: MakeGenerators) -> None:
    sampler = partial(SAMPLERS[name], elementwise, respace(SCHEDULE, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="one generator per image"):
        sampler()
    with pytest.raises(ValueError, match="2 images, 3 generators"):
        sampler(generators=generators(3))


@pytest.mark.parametrize("name", NOISELESS)
def test_deterministic_samplers_need_no_generators(name: str) -> None:
    first, second = (SAMPLERS[name](elementwise, respace(SCHEDULE, 3), torch.ones(2, 3)) for _ in range(2))
    assert torch.equal(first, second)


def test_learned_variance_spans_the_fixed_ones(generators: MakeGenerators) -> None:
    schedule, x_T = respace(SCHEDULE, 5), torch.ones(2, 3, dtype=F64)
    for fraction, fixed in [(0.0, "fixed_small"), (1.0, "fixed_large")]:

        def denoise(x_t: Tensor, t: Tensor, fraction: float = fraction) -> Prediction:
            return elementwise(x_t, t)._replace(variance_fraction=torch.full_like(x_t, fraction))

        learned, expected = (
            s.ddpm(denoise, schedule, x_T, generators=generators(2), variance=v)  # type: ignore[arg-type]
            for v in ("learned", fixed)
        )
        torch.testing.assert_close(learned, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["ddpm small", "ddpm large", "ddim", "ddim eta", "dpm++", "dpm++ sde"])
def test_zero_terminal_snr(name: str, generators: MakeGenerators) -> None:
    """Starting from pure noise there is no signal to divide by."""
    full = rescale_zero_terminal_snr(SCHEDULE)
    denoiser = as_denoiser(lambda x, t: torch.tanh(x), full, "v")
    x = SAMPLERS[name](denoiser, respace(full, 5), torch.ones(2, 3), generators=generators(2))
    assert bool(torch.isfinite(x).all())


def test_noise_is_the_generator_s_own(generators: MakeGenerators) -> None:
    noise = randn_per_image(generators(3), (3, 2, 4), "cpu")
    again = torch.randn(2, 4, generator=generators(3)[1])
    assert torch.equal(noise[1], again)
    assert randn_per_image(generators(3), (3, 2), "cpu", F64).dtype == F64
    half = randn_per_image(generators(3), (3, 2, 4), "cpu", torch.bfloat16)
    assert torch.equal(half, noise.bfloat16())
    big = randn_per_image(generators(2), (2, 100_000), "cpu")
    assert big.mean().item() == pytest.approx(0, abs=0.01) and big.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(s.ddim, eta=1.5), r"eta must lie in \[0, 1\], got 1.5"),
        (partial(s.analytic_dpm, statistics=STATISTICS, eta=-0.1), r"eta must lie in \[0, 1\], got -0.1"),
        (partial(s.dpm_solver_pp, order=3), "order must be 1 or 2, got 3"),
        (partial(s.ddpm, variance="huge"), "unknown variance 'huge'"),
    ],
)
def test_settings_that_do_not_exist_are_refused(call: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(elementwise, respace(SCHEDULE, 3), torch.ones(2, 3))


def test_learned_variance_needs_a_denoiser_that_has_it(generators: MakeGenerators) -> None:
    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        return elementwise(x_t, t)._replace(variance_fraction=None)

    with pytest.raises(ValueError, match="learned variance needs a denoiser with learned sigma"):
        s.ddpm(denoise, respace(SCHEDULE, 3), torch.ones(2, 3), generators=generators(2), variance="learned")


def test_one_step_is_the_estimate(generators: MakeGenerators) -> None:
    x_T = torch.ones(1, 3, dtype=F64)
    x0 = elementwise(x_T, torch.tensor([999])).x0
    for name in set(SAMPLERS) - {"inversion"}:
        found = SAMPLERS[name](elementwise, respace(SCHEDULE, 1, "trailing"), x_T, generators=generators(1))
        torch.testing.assert_close(found, x0, rtol=1e-12, atol=1e-12)
    assert math.isfinite(float(x0.sum()))


def test_transitions_are_pairs_of_levels() -> None:
    schedule = respace(SCHEDULE, 4)
    steps = s.transitions(schedule)
    assert [k.timestep for k in steps] == [999, 666, 333, 0] and [k.position for k in steps] == [3, 2, 1, 0]
    assert [k.last for k in steps] == [False, False, False, True]
    assert [k.now.alpha_bar for k in steps] == schedule.alpha_bar.flip(0).tolist()
    assert steps[0].before is None and steps[-1].next == s.Level(1.0, 1.0, 0.0, math.inf)
    for k, after in pairwise(steps):
        assert k.next == after.now and k.now == after.before
        now, cleaner = k.now, k.next
        assert now.signal**2 + now.noise**2 == pytest.approx(1, rel=1e-14)
        assert now.half_log_snr == pytest.approx(math.log(now.signal / now.noise), rel=1e-12)
        assert k.beta == pytest.approx(1 - now.alpha_bar / cleaner.alpha_bar, rel=1e-12)
        assert k.posterior_variance == pytest.approx(k.beta * cleaner.noise**2 / now.noise**2, rel=1e-12)
        assert math.exp(k.log_beta) == pytest.approx(k.beta) == pytest.approx(1 - k.alpha)


def test_a_new_sampler_is_a_step_for_the_loop(gaussian_denoiser: MakeDenoiser) -> None:
    """Heun's method for the flow of x / signal in sigma = noise / signal (Karras et al. 2022 algorithm 1): order 2."""

    def heun(
        state: s.State, transition: s.Transition, denoise: Callable[[Tensor], Prediction], noise: object
    ) -> s.State:
        now, cleaner = transition.now, transition.next
        prediction = denoise(state.x)
        change = cleaner.noise / cleaner.signal - now.noise / now.signal
        x = state.x / now.signal + change * prediction.epsilon
        if not transition.last:
            # The slope at the next level: its denoiser is known in closed form here.
            slope = (x - at_next[transition.timestep](x * cleaner.signal)) / (cleaner.noise / cleaner.signal)
            x = state.x / now.signal + change * (prediction.epsilon + slope) / 2
        return s.State(x * cleaner.signal, prediction.x0)

    x_T = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    at_next: dict[int, Callable[[Tensor], Tensor]] = {}

    def error_at(steps: int) -> float:
        schedule = even_in_log_snr(steps)
        denoiser = gaussian_denoiser(schedule, MEAN, COVARIANCE)
        for lower, upper in zip(schedule.timesteps.tolist(), schedule.timesteps[1:].tolist(), strict=False):
            at_next[upper] = lambda x, t=lower: denoiser(x, torch.full((len(x),), t)).x0
        path: list[s.Step] = []
        s.run(heun, denoiser, schedule, x_T, on_step=path.append)
        return float((path[-2].x - exact_flow(schedule, x_T)).abs().max())

    assert order_of_convergence(error_at) == pytest.approx(2, abs=0.1)


def test_a_step_leaves_no_trace(generators: MakeGenerators) -> None:
    """A sampler taken a step at a time, each step twice, draws what it draws in one run."""
    schedule = respace(SCHEDULE, 4)
    whole = s.dpm_solver_pp(elementwise, schedule, torch.ones(2, 3))
    state = s.State(torch.ones(2, 3))
    for transition in s.transitions(schedule):
        t = torch.full((2,), transition.timestep)
        state, again = (
            dpm_solver_pp_step(state, transition, lambda x, t=t: elementwise(x, t), torch.randn_like) for _ in range(2)
        )
        assert torch.equal(state.x, again.x)
    assert torch.equal(state.x, whole)
