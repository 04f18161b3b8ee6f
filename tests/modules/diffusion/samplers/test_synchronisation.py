"""Training losses and sampler steps never wait for the device: they read no tensor's values on the host.

Two proofs. On the CPU every operation that would read a value is counted. On the meta device, whose tensors have no
values, such an operation fails.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modules.diffusion import samplers as s
from modules.diffusion import timestep_sampling as timesteps
from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.clip_guidance import clip_guide
from modules.diffusion.denoiser import Model, as_denoiser
from modules.diffusion.gaussian import Parameterization, q_sample
from modules.diffusion.guidance import guide, guide_two
from modules.diffusion.inpainting import repaint_step
from modules.diffusion.losses import Weighting, diffusion_loss, hybrid_loss
from modules.diffusion.samplers.loop import StepFunction
from modules.diffusion.schedules import NoiseSchedule, cosine, respace

SCHEDULE = cosine(100)
MakeGenerators = Callable[..., list[torch.Generator]]


class HostReads(TorchDispatchMode):
    """Operations that wait for the device: values read by the host, and results whose size depends on values."""

    WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.bincount", "aten.unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        # A mask as an index is turned into positions below this level.
        indices = args[1] if name in ("aten.index", "aten.index_put", "aten.index_put_") else ()
        if name in self.WAITING or any(i is not None and i.dtype == torch.bool for i in indices):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("aten._local_scalar_dense", lambda x: x[0].item()),
        ("aten._local_scalar_dense", lambda x: bool((x > 0).all())),
        ("aten.index", lambda x: x[x > 0]),
        ("aten.nonzero", lambda x: x.nonzero()),
    ],
)
def test_what_counts_as_a_read(name: str, read: Callable[[Tensor], object]) -> None:
    with HostReads() as reads:
        read(torch.ones(3))
    assert reads.found == [name]


def draw(schedule: NoiseSchedule, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    t = timesteps.uniform(schedule, len(x0), generator).t.to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    return t, noise, q_sample(schedule, x0, t, noise)


def training_loss(device: str, parameterization: Parameterization, weighting: Weighting, learned_sigma: bool) -> Tensor:
    x0 = torch.zeros(4, 2, 3, 3, device=device)
    t, noise, x_t = draw(SCHEDULE, x0, torch.Generator().manual_seed(0))
    output = torch.cat([x_t, x_t], dim=1) if learned_sigma else x_t
    loss = hybrid_loss if learned_sigma else diffusion_loss
    return loss(output.requires_grad_(), SCHEDULE, x0, noise, t, parameterization, weighting)


@pytest.mark.parametrize("learned_sigma", [False, True])
@pytest.mark.parametrize("weighting", ["none", "min_snr"])
@pytest.mark.parametrize("parameterization", ["x0", "epsilon", "v"])
def test_training(parameterization: Parameterization, weighting: Weighting, learned_sigma: bool) -> None:
    step = partial(training_loss, parameterization=parameterization, weighting=weighting, learned_sigma=learned_sigma)
    assert step("meta").mean().device.type == "meta"
    step("cpu")  # makes the tables
    with HostReads() as reads:
        step("cpu").mean().backward()
    assert reads.found == []


def test_importance_sampling_s_memory() -> None:
    def update(device: str) -> None:
        memory = timesteps.LossSecondMoment(100, history=3).to(device)
        memory.update(SCHEDULE, torch.tensor([3, 3, 99, 3, 3], device=device), torch.ones(5, device=device))
        memory.probabilities()

    update("meta")
    with HostReads() as reads:
        update("cpu")
    assert reads.found == []


def network(x_t: Tensor, t: Tensor) -> Tensor:
    return torch.cat([torch.tanh(x_t), torch.tanh(x_t)], dim=1)


TRAJECTORY = respace(SCHEDULE, 5)
STATISTICS = ScoreStatistics(SCHEDULE.timesteps, torch.full((100,), 0.5, dtype=torch.float64), 1.0, 3)
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": s.ddpm,
    "ddpm learned": partial(s.ddpm, variance="learned"),
    "ddim": partial(s.ddim, eta=0.5),
    "ddim_invert": partial(s.ddim_invert, fixed_point_iterations=2),
    "analytic_dpm": partial(s.analytic_dpm, statistics=STATISTICS),
    "dpm_solver_pp": s.dpm_solver_pp,
    "dpm_solver_pp_sde": partial(s.dpm_solver_pp, sde=True),
    "repaint": lambda denoiser, schedule, x, *, generators: s.run(repaint_of(x), denoiser, schedule, x, generators),
}


def repaint_of(x: Tensor) -> StepFunction:
    return partial(repaint_step, known=x, mask=torch.ones_like(x), like=x, resamples=2, eta=1.0)


def models() -> dict[str, Model]:
    interval = int(TRAJECTORY.timesteps[1]), int(TRAJECTORY.timesteps[3])
    return {
        "plain": network,
        "guided": guide(network, 3.0, interval=interval, rescale=0.5),
        "guided, conditional given": guide(network, 3.0, interval=interval, conditional=network),
        "two": guide_two(network, 3.0, 2.0, interval=interval),
    }


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling(name: str, model: str, generators: MakeGenerators, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = as_denoiser(models()[model], SCHEDULE, "v", learned_sigma=True, threshold="static")

    def draw(device: str) -> Tensor:
        x = torch.zeros(2, 2, 3, 3, device=device)
        return SAMPLERS[name](denoiser, TRAJECTORY, x, generators=generators(2))

    assert draw("meta").device.type == "meta"
    waits: list[list[str]] = []
    original = s.run

    def watched(step: StepFunction, *args: Any, **options: Any) -> Tensor:
        def counted(*inputs: Any) -> s.State:
            with HostReads() as reads:
                state = step(*inputs)
            waits.append(reads.found)
            return state

        return original(counted, *args, **options)

    for module in ("ancestral", "dpm_solver", "implicit"):
        monkeypatch.setattr(f"modules.diffusion.samplers.{module}.run", watched)
    monkeypatch.setattr(s, "run", watched)
    draw("cpu")
    assert waits == [[]] * 5


def test_clip_guidance_waits_for_nothing() -> None:
    denoiser = as_denoiser(network, SCHEDULE, "v", learned_sigma=True)
    guided = clip_guide(denoiser, SCHEDULE, lambda x0: x0.flatten(1).sum(dim=1), 2.0)
    x, t = torch.zeros(2, 2, 3, 3), torch.tensor([5, 50])
    guided(x, t)
    with HostReads() as reads:
        guided(x, t)
    assert reads.found == []
