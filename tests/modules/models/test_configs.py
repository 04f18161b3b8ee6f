"""Objective and SamplerConfig: what a YAML says is what is learned, and how it is sampled."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from modules.diffusion import samplers
from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.denoiser import as_denoiser
from modules.diffusion.schedules import cosine, linear, rescale_zero_terminal_snr, respace
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.diffusion_model import DiffusionModel

SHAPE = (64, 3, 4, 4)


def sample(model, objective, config, x_T, generators, *, statistics=None, **options):
    return DiffusionModel(None, objective, config, statistics).draw(model, x_T, generators, **options)


def data(seed=0):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("name", "make"), [("cosine", cosine), ("linear", linear)])
def test_the_noised_data_are_the_forward_process(name, make):
    objective, x0 = Objective(schedule=name, num_steps=50), data()
    before = x0.clone()
    t, noise, x_t = objective.draw(x0, torch.Generator().manual_seed(1))
    alpha_bar = make(50).alpha_bar[t].float()[:, None, None, None]
    assert_close(x_t, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise)
    assert torch.equal(x0, before)
    assert t.dtype == torch.int64
    assert 0 <= t.min() < 10
    assert 40 <= t.max() < 50
    assert abs(noise.mean()) < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("timesteps", ["uniform", "antithetic", "logit_normal"])
def test_a_draw_is_its_generators(timesteps):
    objective = Objective(timesteps=timesteps)
    first, again, other = (objective.draw(data(), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_the_draw_of_timesteps_is_a_choice():
    t = {
        name: Objective(timesteps=name, timestep_mean=2.0).draw(torch.zeros(512, 1), torch.Generator().manual_seed(0))[
            0
        ]
        for name in ("uniform", "antithetic", "logit_normal")
    }
    assert t["uniform"].float().mean().item() == pytest.approx(500, abs=50)
    assert t["logit_normal"].float().mean() > 750


@pytest.mark.parametrize("parameterization", ["x0", "epsilon", "v"])
def test_the_loss_is_the_squared_error_to_what_is_predicted(parameterization):
    objective, x0 = Objective(parameterization=parameterization), data()
    t, noise, _ = objective.draw(x0, torch.Generator().manual_seed(1))
    alpha_bar = cosine(1000).alpha_bar[t].float()[:, None, None, None]
    target = {"x0": x0, "epsilon": noise, "v": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0}[parameterization]
    assert_close(objective.loss(target, x0, noise, t), torch.zeros(64), atol=1e-6, rtol=0)
    assert_close(objective.loss(target + 0.5, x0, noise, t), torch.full((64,), 0.25), atol=1e-4, rtol=1e-4)


def test_the_weighting_reaches_the_loss():
    x0 = data()
    objective = Objective(parameterization="x0", weighting="min_snr_plus_one", gamma=3.0)
    t, noise, _ = objective.draw(x0, torch.Generator().manual_seed(1))
    alpha_bar = cosine(1000).alpha_bar[t]
    weight = (alpha_bar / (1 - alpha_bar) + 1).clamp(max=3.0).float()
    assert_close(objective.loss(x0 + 0.5, x0, noise, t), weight / 4, atol=1e-5, rtol=1e-4)


def test_the_huber_scale_reaches_the_loss():
    x0, scale = data(), 0.1
    objective = Objective(parameterization="x0", huber_scale=scale)
    t, noise, _ = objective.draw(x0, torch.Generator().manual_seed(1))
    expected = 2 * scale * (math.hypot(0.5, scale) - scale)
    assert_close(objective.loss(x0 + 0.5, x0, noise, t), torch.full((64,), expected), atol=1e-5, rtol=1e-4)
    terms = objective.terms(x0 + 0.5, x0, noise, t)
    assert_close(terms["L_simple"], objective.loss(x0 + 0.5, x0, noise, t))


@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, True, "0.1"])
def test_a_huber_scale_that_is_none_is_refused(value):
    with pytest.raises(InputError, match=f"huber_scale must be null, or a number from 1e-6 to 1e6, found {value!r}"):
        Objective(huber_scale=value)


def test_learned_sigma_adds_the_bound():
    x0 = data()
    plain, hybrid, heavier = (
        Objective(),
        Objective(learned_sigma=True),
        Objective(learned_sigma=True, bound_weight=0.01),
    )
    t, noise, _ = plain.draw(x0, torch.Generator().manual_seed(1))
    guess = noise + 0.3
    output = torch.cat([guess, torch.zeros_like(guess)], dim=1)
    simple = plain.loss(guess, x0, noise, t)
    bound = hybrid.loss(output, x0, noise, t) - simple
    assert (bound > 0).all()
    assert_close(heavier.loss(output, x0, noise, t) - simple, 10 * bound, atol=1e-3, rtol=1e-2)


def perfect(objective, x0, calls=None):
    """A network that knows the data."""

    def model(x_t, t):
        if calls is not None:
            calls.append(int(t[0]))
        alpha_bar = objective.noise_schedule.alpha_bar[t].to(x_t.dtype)[:, None, None, None]
        noise = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
        out = {"x0": x0, "epsilon": noise, "v": v}[objective.parameterization]
        return torch.cat([out, torch.zeros_like(out)], dim=1) if objective.learned_sigma else out

    return model


def generators(count):
    return [torch.Generator().manual_seed(k) for k in range(count)]


@pytest.mark.parametrize("parameterization", ["x0", "epsilon", "v"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {}),
        ("ddpm", {"variance": "learned"}),
        ("ddim", {}),
        ("ddim", {"eta": 1.0}),
        ("dpm_solver_pp", {}),
        ("dpm_solver_pp_sde", {}),
        ("analytic_dpm", {}),
        ("analytic_ddim", {}),
    ],
)
def test_every_sampler_arrives_at_the_data_in_as_many_steps_as_it_says(name, options, parameterization):
    learned = options.get("variance") == "learned"
    objective = Objective(parameterization=parameterization, learned_sigma=learned)
    config, x0, calls = SamplerConfig(name=name, steps=7, spacing="adm", **options), data()[:3].double(), []
    steps = respace(objective.noise_schedule, 7, "adm").timesteps
    statistics = ScoreStatistics(steps, torch.full((7,), 0.9, dtype=torch.float64), 0.3, 10)
    x_T = torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    out = sample(perfect(objective, x0, calls), objective, config, x_T, generators(3), statistics=statistics)
    assert_close(out, x0, atol=1e-4, rtol=0)
    assert calls == steps.tolist()[::-1]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_schedule_may_end_without_signal(name):
    objective = Objective(schedule=name, num_steps=50, parameterization="v", zero_terminal_snr=True)
    alpha_bar = objective.noise_schedule.alpha_bar
    assert_close(alpha_bar, rescale_zero_terminal_snr({"cosine": cosine, "linear": linear}[name](50)).alpha_bar)
    assert alpha_bar[-1] == 0
    assert Objective(schedule=name, num_steps=50).noise_schedule.alpha_bar[-1] > 0


@pytest.mark.parametrize(
    ("name", "sampler", "options"),
    [
        ("analytic_dpm", "analytic_dpm", {"eta": 1.0}),
        ("analytic_ddim", "analytic_dpm", {"eta": 0.0}),
        ("dpm_solver_pp", "dpm_solver_pp", {"sde": False}),
        ("dpm_solver_pp_sde", "dpm_solver_pp", {"sde": True}),
    ],
)
def test_a_name_is_a_sampler_with_its_options(name, sampler, options):
    """SamplerConfig.eta is DDIM's alone."""
    objective = Objective(parameterization="x0")
    x_T, x0 = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) / 2
    schedule = respace(objective.noise_schedule, 4, "trailing")
    statistics = ScoreStatistics(schedule.timesteps, torch.full((4,), 0.9, dtype=torch.float64), 0.3, 10)
    config = SamplerConfig(name=name, steps=4, eta=0.5)
    assert config.needs_statistics == name.startswith("analytic")

    def second(run):
        seen = []
        run(lambda step: seen.append(step.x))
        return seen[1]

    found = second(
        lambda on_step: sample(
            perfect(objective, x0), objective, config, x_T, generators(2), statistics=statistics, on_step=on_step
        )
    )
    denoiser = as_denoiser(perfect(objective, x0), objective.noise_schedule, "x0", threshold="static")
    own = {"statistics": statistics} if config.needs_statistics else {}
    expected = second(
        lambda on_step: getattr(samplers, sampler)(
            denoiser, schedule, x_T, generators=generators(2), on_step=on_step, **options, **own
        )
    )
    assert torch.equal(found, expected)


def test_before_there_are_statistics_the_mean_stays():
    config = SamplerConfig(name="analytic_dpm", steps=7, guidance_scale=2.0)
    assert config.without_statistics() == SamplerConfig(name="ddpm", steps=7, guidance_scale=2.0)
    assert SamplerConfig(name="analytic_ddim").without_statistics().name == "ddim"
    assert SamplerConfig(name="dpm_solver_pp").without_statistics().name == "dpm_solver_pp"


def test_eta_and_variance_reach_the_sampler():
    objective = Objective(parameterization="x0")
    x_T, x0 = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)

    def second(**options):
        seen = []
        config = SamplerConfig(**{"name": "ddim", "steps": 3, **options})
        sample(perfect(objective, x0), objective, config, x_T, generators(2), on_step=lambda step: seen.append(step.x))
        return seen[0]

    assert not torch.equal(second(eta=0.0), second(eta=1.0))
    ddpm = [second(name="ddpm", variance=variance) for variance in ("fixed_small", "fixed_large")]
    assert not torch.equal(*ddpm)
    assert not torch.equal(second(spacing="trailing"), second(spacing="leading"))


def test_the_threshold_is_for_pictures():
    objective = Objective(parameterization="x0")
    x_T, far = torch.randn(2, 3, 4, 4), torch.full((2, 3, 4, 4), 3.0)
    far[0] = 0.5
    clipped, free = (
        sample(perfect(objective, far), objective, SamplerConfig(steps=3, threshold=name), x_T, generators(2))
        for name in ("static", None)
    )
    assert_close(clipped, far.clamp(max=1.0))
    assert_close(free, far)
    own = sample(
        perfect(objective, far), objective, SamplerConfig(steps=3), x_T, generators(2), threshold=lambda x0: x0 / 2
    )
    assert_close(own, far / 2)


def test_analytic_dpm_needs_its_statistics():
    objective, config = Objective(), SamplerConfig(name="analytic_dpm", steps=3)
    with pytest.raises(ValueError, match="analytic_dpm needs statistics of the score"):
        sample(perfect(objective, torch.zeros(1, 3, 4, 4)), objective, config, torch.randn(1, 3, 4, 4), generators(1))
