"""Whole trajectories against diffusers' schedulers: same network, start, noise and timesteps, within 1e-5 relative.

diffusers keeps its tables in float32, where 1 - alpha_bar at t = 0 has lost four digits. Where a variance is made of
that (DDPM, UnCLIP, DDIM with eta), the schedulers are given this project's float64 table, and then agree within 1e-11.
The DDIM inversion and DPM-Solver++ are compared with diffusers' own tables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
)
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
from torch import Tensor

from modules.diffusion import samplers as s
from modules.diffusion.denoiser import Denoiser, Model, Threshold, as_denoiser, dynamic_threshold, static_threshold
from modules.diffusion.gaussian import Parameterization, velocity
from modules.diffusion.schedules import NoiseSchedule, Spacing, cosine, linear, rescale_zero_terminal_snr, respace

# diffusers and NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

F64 = torch.float64
NAMES = {"x0": "sample", "epsilon": "epsilon", "v": "v_prediction"}
SCHEDULES = {"squaredcos_cap_v2": cosine(1000), "linear": linear(1000)}
SHAPE = (2, 3, 4, 4)
MIX = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=F64) / 2
MakeGenerators = Callable[..., list[torch.Generator]]


def network(x: Tensor, t: Tensor) -> Tensor:
    """Mixes channels and depends on t; outputs beyond [-1, 1] now and then, so that clipping matters."""
    return 1.3 * torch.tanh(torch.einsum("oc,bchw->bohw", MIX[:3].to(x.dtype), x) + 0.002 * t.reshape(-1, 1, 1, 1))


def network_with_sigma(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([network(x, t), torch.tanh(torch.einsum("oc,bchw->bohw", MIX[3:].to(x.dtype), x))], dim=1)


def start(dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=F64).to(dtype)


def with_our_table(scheduler: Any, schedule: NoiseSchedule) -> Any:
    scheduler.alphas_cumprod = schedule.alpha_bar.clone()
    scheduler.alphas, scheduler.betas = schedule.alphas.clone(), schedule.betas.clone()
    scheduler.one = torch.tensor(1.0, dtype=F64)
    return scheduler


def their_trajectory(scheduler: Any, steps: int, model: Model, x: Tensor, step: Callable[..., Any]) -> list[Tensor]:
    """x after each step, down the scheduler's own timesteps."""
    scheduler.set_timesteps(steps)
    path = []
    for i, t in enumerate(scheduler.timesteps):
        x = step(i, model(x, t.expand(len(x))), t, x).prev_sample
        path.append(x)
    return path


def our_trajectory(sampler: Callable[..., Tensor], *args: Any, **options: Any) -> list[Tensor]:
    path: list[Tensor] = []
    sampler(*args, on_step=lambda step: path.append(step.x), **options)
    return path


def assert_same_path(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """At every step, relative to the largest value there."""
    assert len(ours) == len(theirs)
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
    assert worst < tolerance


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables(name: str) -> None:
    """alpha_bar within float32's rounding of a product of 1,000 factors; and theirs at zero terminal SNR."""
    theirs = DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
    torch.testing.assert_close(SCHEDULES[name].alpha_bar, theirs, rtol=1e-4, atol=0)
    theirs = DDIMScheduler(beta_schedule=name, rescale_betas_zero_snr=True).alphas_cumprod.double()
    torch.testing.assert_close(rescale_zero_terminal_snr(SCHEDULES[name]).alpha_bar, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_spacings(spacing: Spacing) -> None:
    for steps in (1, 3, 7, 10, 27, 64, 250, 999, 1000):
        scheduler = DDIMScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        ours = respace(linear(1000), steps, spacing).timesteps.flip(0)
        assert ours.tolist() == scheduler.timesteps.tolist()
    scheduler = UnCLIPScheduler()
    scheduler.set_timesteps(25)
    assert respace(cosine(1000), 25, "adm").timesteps.flip(0).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("parameterization", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_ddpm(name: str, parameterization: Parameterization, variance: s.Variance, generators: MakeGenerators) -> None:
    schedule, model = SCHEDULES[name], network_with_sigma if variance == "learned" else network
    scheduler = DDPMScheduler(
        beta_schedule=name,
        variance_type="learned_range" if variance == "learned" else variance,
        prediction_type=NAMES[parameterization],
        clip_sample=False,
        timestep_spacing="leading",
    )
    draws = generators(2)
    theirs = their_trajectory(
        with_our_table(scheduler, schedule), 40, model, start(), lambda i, *args: scheduler.step(*args, generator=draws)
    )
    denoiser = as_denoiser(model, schedule, parameterization, learned_sigma=variance == "learned")
    trajectory = respace(schedule, 40, "leading")
    ours = our_trajectory(s.ddpm, denoiser, trajectory, start(), variance=variance, generators=generators(2))
    # Without clipping, epsilon prediction by an untrained network grows to 1e4; still relative to the largest value.
    assert_same_path(ours, theirs, 1e-11)


@pytest.mark.parametrize(
    ("threshold", "settings"),
    [
        ("static", {"clip_sample": True}),
        (partial(static_threshold, limit=0.6), {"clip_sample": True, "clip_sample_range": 0.6}),
        ("dynamic", {"thresholding": True, "sample_max_value": 1e9}),
        (
            partial(dynamic_threshold, quantile=0.8, largest=1.5),
            {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5},
        ),
    ],
    ids=["static", "static 0.6", "dynamic", "dynamic 0.8"],
)
@pytest.mark.parametrize("eta", [None, 0.0, 0.5])
def test_thresholding(
    threshold: Threshold, settings: dict[str, Any], eta: float | None, generators: MakeGenerators
) -> None:
    """eta None is DDPM. diffusers derives epsilon again from the clipped x0 when told to."""
    schedule, draws = linear(1000), generators(2)
    denoiser = as_denoiser(network, schedule, "epsilon", threshold=threshold)
    trajectory = respace(schedule, 20, "leading")
    if eta is None:
        scheduler = DDPMScheduler(
            beta_schedule="linear", timestep_spacing="leading", **{"clip_sample": False} | settings
        )
        step = partial(scheduler.step, generator=draws)
        ours = our_trajectory(s.ddpm, denoiser, trajectory, start(), generators=generators(2))
    else:
        scheduler = DDIMScheduler(
            beta_schedule="linear", timestep_spacing="leading", **{"clip_sample": False} | settings
        )
        step = partial(scheduler.step, eta=eta, use_clipped_model_output=True, generator=draws)
        ours = our_trajectory(s.ddim, denoiser, trajectory, start(), eta=eta, generators=generators(2))
    with_our_table(scheduler, schedule)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=F64)
    theirs = their_trajectory(scheduler, 20, network, start(), lambda i, *args: step(*args))
    assert_same_path(ours, theirs, 1e-11)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("parameterization", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(
    name: str, parameterization: Parameterization, eta: float, spacing: Spacing, generators: MakeGenerators
) -> None:
    schedule, draws = SCHEDULES[name], generators(2)
    scheduler = DDIMScheduler(
        beta_schedule=name, prediction_type=NAMES[parameterization], clip_sample=False, timestep_spacing=spacing
    )
    theirs = their_trajectory(
        with_our_table(scheduler, schedule),
        25,
        network,
        start(),
        lambda i, *args: scheduler.step(*args, eta=eta, generator=draws),
    )
    denoiser = as_denoiser(network, schedule, parameterization)
    trajectory = respace(schedule, 25, spacing)
    ours = our_trajectory(s.ddim, denoiser, trajectory, start(), eta=eta, generators=generators(2))
    assert_same_path(ours, theirs, 1e-11)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_inversion(name: str, spacing: Spacing) -> None:
    schedule = SCHEDULES[name]
    scheduler = DDIMInverseScheduler(beta_schedule=name, clip_sample=False, timestep_spacing=spacing)
    theirs = their_trajectory(scheduler, 25, network, start(), lambda i, *args: scheduler.step(*args))
    ours = our_trajectory(
        s.ddim_invert, as_denoiser(network, schedule, "epsilon"), respace(schedule, 25, spacing), start()
    )
    assert_same_path(ours, theirs, 1e-5)


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("parameterization", ["x0", "v"])
def test_the_round_trip_of_v_and_x0_is_better_than_diffusers(
    parameterization: Parameterization, steps: int, mixture_denoiser: Callable[..., Denoiser]
) -> None:
    """Data of two modes, known in closed form: the inversion of either, and the same DDIM back to the data.

    Of x0 diffusers' is NaN where the data are at alpha_bar = 1, so there it begins at the first timestep's level.
    """
    schedule, means = SCHEDULES["linear"], torch.tensor([-1.0, 0.6], dtype=F64)
    optimal = mixture_denoiser(schedule, means, torch.tensor([0.3, 0.7], dtype=F64), 0.3)

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        found = optimal(x_t, t)
        return found.x0 if parameterization == "x0" else velocity(schedule, found.x0, found.epsilon, t)

    data = torch.linspace(-1.5, 1.2, 40, dtype=F64)[:, None]
    denoiser, trajectory = as_denoiser(model, schedule, parameterization), respace(schedule, steps, "leading")
    scheduler = DDIMInverseScheduler(
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="leading",
        prediction_type=NAMES[parameterization],
        set_alpha_to_one=parameterization == "v",
    )
    theirs = their_trajectory(scheduler, steps, model, data, lambda i, *args: scheduler.step(*args))[-1]
    ours = s.ddim_invert(denoiser, trajectory, data)
    exact = s.ddim_invert(denoiser, trajectory, data, fixed_point_iterations=12)
    errors = [float((s.ddim(denoiser, trajectory, latent) - data).abs().mean()) for latent in (ours, theirs, exact)]
    assert errors[0] < 0.8 * errors[1] and errors[2] < 1e-12


@pytest.mark.parametrize("steps", [7, 25])
@pytest.mark.parametrize("stage", ["prior", "decoder"])
def test_unclip(stage: str, steps: int, generators: MakeGenerators) -> None:
    """Karlo: x0, clipped at 5, and the small variance in the prior; epsilon and a learned variance in the decoder."""
    schedule, draws = cosine(1000), generators(2)
    prior = stage == "prior"
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log" if prior else "learned_range",
        prediction_type="sample" if prior else "epsilon",
        clip_sample_range=5.0 if prior else 1.0,
    )
    with_our_table(scheduler, schedule)
    model = network if prior else network_with_sigma

    def step(i: int, output: Tensor, t: Tensor, x: Tensor) -> Any:
        following = scheduler.timesteps[i + 1] if i + 1 < steps else None
        return scheduler.step(output, t, x, prev_timestep=following, generator=draws)

    theirs = their_trajectory(scheduler, steps, model, start(), step)
    threshold = partial(static_threshold, limit=5.0) if prior else "static"
    denoiser = as_denoiser(model, schedule, "x0" if prior else "epsilon", not prior, threshold)
    variance = "fixed_small" if prior else "learned"
    ours = our_trajectory(
        s.ddpm, denoiser, respace(schedule, steps), start(), variance=variance, generators=generators(2)
    )
    assert_same_path(ours, theirs, 1e-11)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("steps", [8, 25])
def test_dpm_solver(name: str, order: int, sde: bool, steps: int, generators: MakeGenerators) -> None:
    """diffusers computes every step of this solver in float32, whatever it is given; so do we here."""
    schedule, draws = SCHEDULES[name], generators(2)
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule=name,
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        solver_order=order,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    theirs = their_trajectory(
        scheduler, steps, network, start(torch.float32), lambda i, *args: scheduler.step(*args, generator=draws)
    )
    denoiser, trajectory = as_denoiser(network, schedule, "v"), respace(schedule, steps, "trailing")
    ours = our_trajectory(
        s.dpm_solver_pp, denoiser, trajectory, start(torch.float32), order=order, sde=sde, generators=generators(2)
    )
    assert_same_path(ours, theirs, 1e-5)
