"""No public function mutates an argument, be it a tensor, a tensor inside of one, or what a network returned to it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modules.diffusion
from modules.diffusion import (
    analytic,
    bound,
    clip_guidance,
    denoiser,
    gaussian,
    guidance,
    inpainting,
    losses,
    noise,
    samplers,
    schedules,
)
from modules.diffusion import timestep_sampling as timesteps
from modules.diffusion.denoiser import Prediction
from modules.diffusion.gaussian import Gaussian
from modules.diffusion.noise_schedule import NoiseSchedule, working_dtype
from modules.diffusion.samplers import ancestral, distillation, dpm_solver, implicit, loop, trajectory
from modules.diffusion.tables import Tables

T = torch.tensor([0, 4, 9])
DERIVED = [name for name, thing in vars(NoiseSchedule).items() if isinstance(thing, cached_property)]


def derive(made: NoiseSchedule) -> NoiseSchedule:
    """The schedule, with all that it derives and keeps computed, so that a change of it would be seen."""
    for name in DERIVED:
        getattr(made, name)
    made.at(T, like=x())
    return made


def x(seed: int = 0, channels: int = 2) -> Tensor:
    return torch.randn(3, channels, 4, 4, generator=torch.Generator().manual_seed(seed))


SCHEDULE = derive(schedules.cosine(10))


def schedule() -> NoiseSchedule:
    """One for all calls: it is looked at after each, also where it is not an argument itself."""
    return SCHEDULE


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(3)]


def statistics() -> analytic.ScoreStatistics:
    return analytic.ScoreStatistics(torch.arange(10), torch.full((10,), 0.5, dtype=torch.float64), 1.0, 3)


def filled() -> timesteps.LossSecondMoment:
    sampler = timesteps.LossSecondMoment(10, history=1)
    sampler.update(SCHEDULE, SCHEDULE.timesteps, torch.arange(10.0))
    return sampler


class Recalls:
    """Always returns the very same tensors, so that a change of them would be seen."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, *args: Tensor) -> Any:
        return self.result


def prediction() -> Prediction:
    return Prediction(x(1), x(2), x(3).sigmoid())


def attracted(x_t: Tensor, t: Tensor) -> Prediction:
    return Prediction(x_t.tanh(), x_t.sin(), x_t.sigmoid())


def model(channels: int, copies: int) -> Recalls:
    return Recalls(torch.cat([x(i, channels) for i in range(copies)]))


def run(sampler: Callable[..., Tensor], **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    """The denoiser's own outputs are arguments too."""
    recalls = Recalls(prediction())
    return lambda *args: sampler(recalls, *args[1:3], generators=args[3], **options), [
        recalls.result,
        schedule(),
        x(),
        seeds(),
    ]


def step(taken: Callable[..., Any], **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    """One step between two noise levels; the state, the denoiser's outputs and the noise are arguments."""
    transition, recalls, drawn = samplers.transitions(SCHEDULE)[4], Recalls(prediction()), x(7)
    return lambda state, *_: taken(state, transition, recalls, lambda like: drawn, **options), [
        samplers.State(x(), x(8)),
        recalls.result,
        drawn,
    ]


def apply(make: Callable[..., Callable[..., Any]], returned: Recalls) -> tuple[Callable[..., Any], list[Any]]:
    """Calls what ``make`` returns."""
    return lambda _, x_t, t: make(returned)(x_t, t), [returned.result, x(), T.clone()]


CALLS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "analytic.analytic_variance": (analytic.analytic_variance, [schedule(), statistics(), 0.5]),
    "analytic.estimate_statistics": (
        lambda returned, x0, s: analytic.estimate_statistics([(Recalls(returned), x0)], s, seeds()[0]),
        [prediction(), x(), schedule()],
    ),
    "bound.bound_term": (
        bound.bound_term,
        [schedule(), Gaussian(x(1), x(2).exp(), x(2)), x().clamp(-1, 1), x(4), T.clone()],
    ),
    "bound.discretised_log_likelihood": (bound.discretised_log_likelihood, [x(), Gaussian(x(1), x(2).exp(), x(2))]),
    "bound.gaussian_kl": (bound.gaussian_kl, [Gaussian(x(), x(1).exp(), x(1)), Gaussian(x(2), x(3).exp(), x(3))]),
    "bound.gaussian_log_likelihood": (bound.gaussian_log_likelihood, [x(), Gaussian(x(1), x(2).exp(), x(2))]),
    "bound.prior_term": (bound.prior_term, [schedule(), x()]),
    "bound.reverse_distribution": (bound.reverse_distribution, [prediction(), schedule(), x(), T.clone(), "learned"]),
    "bound.variational_bound": (
        lambda returned, s, x0: bound.variational_bound(
            Recalls(returned), s, x0, generators=seeds(), variance=s.betas.clone()
        ),
        [prediction(), schedule(), x()],
    ),
    "denoiser.as_denoiser": apply(
        lambda returned: denoiser.as_denoiser(returned, schedule(), "v", learned_sigma=True, threshold="dynamic"),
        model(4, 1),
    ),
    "denoiser.at_timestep": (
        lambda returned, x_t, t: denoiser.at_timestep(
            denoiser.as_denoiser(Recalls(returned), schedule(), "v", learned_sigma=True), 4
        )(x_t, t),
        [model(4, 1).result, x(), T.clone()],
    ),
    "denoiser.dynamic_threshold": (denoiser.dynamic_threshold, [3 * x()]),
    "samplers.distillation.trajectory_pairs": (distillation.trajectory_pairs, [schedule(), 2, "trailing"]),
    "samplers.distillation.two_steps_as_one": (
        lambda returned, s, x_t, rows: distillation.two_steps_as_one(Recalls(returned), s, x_t, rows),
        [prediction(), schedule(), x(), torch.tensor([[9, 7, 4], [4, 2, -1], [9, 7, 4]])],
    ),
    "denoiser.split_learned_sigma": (denoiser.split_learned_sigma, [x(0, 4), 2]),
    "denoiser.static_threshold": (denoiser.static_threshold, [3 * x()]),
    "gaussian.epsilon_from_v": (gaussian.epsilon_from_v, [schedule(), x(), x(1), T.clone()]),
    "gaussian.epsilon_from_x0": (gaussian.epsilon_from_x0, [schedule(), x(), x(1), T.clone()]),
    "gaussian.interpolated_log_variance": (gaussian.interpolated_log_variance, [x(), x(1), x(2)]),
    "gaussian.learned_log_variance": (gaussian.learned_log_variance, [schedule(), x(), T.clone()]),
    "gaussian.posterior": (gaussian.posterior, [schedule(), x(), x(1), T.clone()]),
    "gaussian.q_sample": (gaussian.q_sample, [schedule(), x(), T.clone(), x(1)]),
    "gaussian.training_target": (gaussian.training_target, [schedule(), x(), x(1), T.clone(), "v"]),
    "gaussian.velocity": (gaussian.velocity, [schedule(), x(), x(1), T.clone()]),
    "gaussian.x0_and_epsilon": (gaussian.x0_and_epsilon, [schedule(), x(), x(1), T.clone(), "epsilon"]),
    "gaussian.x0_from_epsilon": (gaussian.x0_from_epsilon, [schedule(), x(), x(1), T.clone()]),
    "gaussian.x0_from_v": (gaussian.x0_from_v, [schedule(), x(), x(1), T.clone()]),
    "clip_guidance.clip_guide": (
        lambda x_t, t, target: clip_guidance.clip_guide(
            attracted, schedule(), lambda x0: (x0 * target).flatten(1).sum(dim=1), 2.0
        )(x_t, t),
        [x(), T.clone(), x(1)],
    ),
    "guidance.guide": apply(lambda m: guidance.guide(m, 2.0, interval=(1, 5), rescale=0.5), model(4, 2)),
    "guidance.guide_logits": (guidance.guide_logits, [torch.randn(6, 5), 2.0]),
    "guidance.guide_two": apply(lambda m: guidance.guide_two(m, 2.0, 3.0, interval=(1, 5), rescale=0.5), model(4, 3)),
    "guidance.side_by_side": apply(
        lambda m: lambda x_t, t: guidance.guide(guidance.side_by_side(m, m), 2.0)(x_t, t), model(4, 1)
    ),
    "inpainting.inpaint": run(inpainting.inpaint, known=x(6), mask=torch.ones(3, 1, 4, 4).tril(), resamples=2),
    "losses.diffusion_loss": (losses.diffusion_loss, [x(), schedule(), x(1), x(2), T.clone(), "v", "min_snr"]),
    "losses.hybrid_loss": (losses.hybrid_loss, [x(0, 4), schedule(), x(1), x(2), T.clone(), "epsilon", "min_snr"]),
    "losses.pseudo_huber": (losses.pseudo_huber, [x(), 0.1]),
    "losses.loss_weight": (losses.loss_weight, [schedule(), T.clone(), "x0", "min_snr_plus_one"]),
    "noise.randn_per_image": (lambda shape: noise.randn_per_image(seeds(), shape, "cpu"), [[3, 2]]),
    "inpainting.repaint_step": step(
        inpainting.repaint_step, known=x(6), mask=torch.ones(3, 1, 4, 4).tril(), like=x(), resamples=2, eta=0.5
    ),
    "samplers.ancestral.analytic_dpm": run(samplers.analytic_dpm, statistics=statistics(), eta=0.5),
    "samplers.ancestral.analytic_step": step(ancestral.analytic_step, variances=[0.1] * 10, eta=0.5),
    "samplers.ancestral.ddpm": run(samplers.ddpm, variance="learned"),
    "samplers.ancestral.ddpm_step": step(ancestral.ddpm_step, variance="learned"),
    "samplers.implicit.check_eta": (implicit.check_eta, [0.5]),
    "samplers.implicit.ddim": run(samplers.ddim, eta=0.5),
    "samplers.implicit.ddim_invert": run(samplers.ddim_invert, fixed_point_iterations=3),
    "samplers.implicit.ddim_step": step(implicit.ddim_step, eta=0.5),
    "samplers.implicit.inversion_step": step(implicit.inversion_step, iterations=3),
    "samplers.implicit.towards": (implicit.towards, [prediction(), 0.5, 0.1]),
    "samplers.dpm_solver.dpm_solver_pp": run(samplers.dpm_solver_pp, sde=True),
    "samplers.dpm_solver.dpm_solver_pp_step": step(dpm_solver.dpm_solver_pp_step, sde=True),
    "samplers.loop.run": (
        lambda returned, s, start: loop.run(implicit.ddim_step, Recalls(returned), s, start),
        [prediction(), schedule(), x()],
    ),
    "samplers.trajectory.transitions": (trajectory.transitions, [schedule()]),
    "spacing.at_positions": (schedules.at_positions, [schedule(), [1, 3]]),
    "schedules.cosine": (schedules.cosine, [10]),
    "schedules.from_betas": (schedules.from_betas, [torch.linspace(0.1, 0.5, 5, dtype=torch.float64)]),
    "schedules.linear": (schedules.linear, [100]),
    "spacing.noise_interval": (schedules.noise_interval, [schedule(), 0.3, 3.0]),
    "schedules.rescale_zero_terminal_snr": (schedules.rescale_zero_terminal_snr, [schedule()]),
    "spacing.respace": (schedules.respace, [schedule(), [2, 1], "adm"]),
    "noise_schedule.working_dtype": (working_dtype, [x()]),
    "timestep_sampling.antithetic": (lambda s: timesteps.antithetic(s, 7, seeds()[0]), [schedule()]),
    "timestep_sampling.logit_normal": (lambda s: timesteps.logit_normal(s, 7, seeds()[0]), [schedule()]),
    "timestep_sampling.uniform": (lambda s: timesteps.uniform(s, 7, seeds()[0]), [schedule()]),
    # Once more where another setting takes another way; what comes after the space is its name.
    **{
        f"denoiser.as_denoiser {name} {threshold}": apply(
            lambda returned, name=name, threshold=threshold: denoiser.as_denoiser(
                returned, schedule(), name, threshold=threshold
            ),
            model(2, 1),
        )
        for name in ("x0", "epsilon", "v")
        for threshold in (None, "static", "dynamic")
    },
    **{
        f"guidance.guide {scale}": apply(lambda m, scale=scale: guidance.guide(m, scale), model(4, 2))
        for scale in (0.0, 1.0, 3.0)
    },
    "guidance.guide_logits forbidden": (guidance.guide_logits, [x().reshape(6, -1).clamp(min=0).log(), 2.0]),
    **{
        f"losses.{loss.__name__} {name} {weighting}": (
            loss,
            [x(0, 4 if loss is losses.hybrid_loss else 2), schedule(), x(1), x(2), T.clone(), name, weighting],
        )
        for loss in (losses.diffusion_loss, losses.hybrid_loss)
        for name, weighting in (("x0", "none"), ("epsilon", "snr"), ("v", "min_snr_plus_one"))
    },
    "samplers.implicit.ddim deterministic": run(samplers.ddim),
    "samplers.implicit.ddim_invert plain": run(samplers.ddim_invert),
    "samplers.ancestral.ddpm small": run(samplers.ddpm),
    "samplers.ancestral.ddpm large": run(samplers.ddpm, variance="fixed_large"),
    "samplers.dpm_solver.dpm_solver_pp deterministic": run(samplers.dpm_solver_pp),
    # Public methods of classes.
    "NoiseSchedule.derived": (
        lambda alpha_bar, t: derive(NoiseSchedule(alpha_bar, t)),
        [SCHEDULE.alpha_bar.clone(), SCHEDULE.timesteps.clone()],
    ),
    "NoiseSchedule.at": (lambda s, t, like: s.at(t, like=like), [schedule(), T.clone(), x()]),
    "NoiseSchedule.kept_lookup": (
        lambda s, values, t: s.kept_lookup("a name", lambda: values, t),
        [schedule(), schedule().snr.clone(), T.clone()],
    ),
    "Tables.kept": (
        lambda t, values: Tables(t).kept("a name", lambda: values, values.device, values.dtype),
        [SCHEDULE.timesteps.clone(), SCHEDULE.snr[None].clone()],
    ),
    "Tables.made": (
        lambda t, values: Tables(t).made(values, values.device, values.dtype),
        [SCHEDULE.timesteps.clone(), SCHEDULE.snr[None].clone()],
    ),
    "NetworkDenoiser.at_timestep": apply(
        lambda returned: denoiser.NetworkDenoiser(returned, schedule(), "v", True, None).at_timestep(4), model(4, 1)
    ),
    "GuidedWithin.at_timestep": apply(
        lambda m: denoiser.at_timestep(guidance.guide(m, 2.0, interval=(1, 5), rescale=0.5), 4), model(4, 2)
    ),
    "GuidedWithin.at_timestep outside": apply(
        lambda m: denoiser.at_timestep(guidance.guide(m, 2.0, interval=(1, 5)), 8), model(4, 2)
    ),
    "CLIPGuided.at_timestep": (
        lambda x_t, t, target: denoiser.at_timestep(
            clip_guidance.clip_guide(attracted, schedule(), lambda x0: (x0 * target).flatten(1).sum(dim=1), 2.0), 4
        )(x_t, t),
        [x(), T.clone(), x(1)],
    ),
    "NoiseSchedule.lookup": (NoiseSchedule.lookup, [schedule(), schedule().snr, T.clone(), x()]),
    "ScoreStatistics.from_tensors": (analytic.ScoreStatistics.from_tensors, [statistics().to_tensors()]),
    "ScoreStatistics.to_tensors": (analytic.ScoreStatistics.to_tensors, [statistics()]),
    "LossSecondMoment.forward": (lambda s: timesteps.LossSecondMoment(10)(s, 7, seeds()[0]), [schedule()]),
    "LossSecondMoment.probabilities": (timesteps.LossSecondMoment.probabilities, [filled()]),
    "LossSecondMoment.update": (
        lambda s, t, values: timesteps.LossSecondMoment(10).update(s, t, values),
        [schedule(), torch.tensor([4, 4, 1]), torch.rand(3)],
    ),
}


METHODS = (FunctionType, classmethod, staticmethod)


def public_functions() -> set[str]:
    """Functions by module, methods by class; "derived" stands for a schedule's properties."""
    found = {"NoiseSchedule.derived"}
    for info in pkgutil.walk_packages(modules.diffusion.__path__, "modules.diffusion."):
        module = importlib.import_module(info.name)
        for name, thing in inspect.getmembers(module, inspect.isfunction):
            if thing.__module__ == module.__name__ and not name.startswith("_"):
                found.add(f"{info.name.removeprefix('modules.diffusion.')}.{name}")
        for name, thing in inspect.getmembers(module, inspect.isclass):
            if thing.__module__ == module.__name__:
                methods = {n for n, m in vars(thing).items() if isinstance(m, METHODS) and not n.startswith("_")}
                found |= {f"{name}.{method}" for method in methods}
    return found


def test_every_public_function_is_called_here() -> None:
    assert public_functions() == {name.split(" ")[0] for name in CALLS}


def tensors_in(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        yield from (t for v in thing.values() for t in tensors_in(v))
    elif isinstance(thing, (list, tuple)):
        yield from (t for v in thing for t in tensors_in(v))
    elif is_dataclass(thing):
        yield from (t for f in fields(thing) for t in tensors_in(getattr(thing, f.name)))
        # Whatever has been derived and kept.
        yield from (t for v in vars(thing).values() for t in tensors_in(v))
    elif isinstance(thing, Tables):
        yield from tensors_in(thing._kept)
    elif isinstance(thing, nn.Module):
        yield from thing.state_dict().values()
    elif isinstance(thing, Recalls):
        yield from tensors_in(thing.result)


@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_left_alone(name: str) -> None:
    call, args = CALLS[name]
    before = [(t, t.clone(), t._version) for t in tensors_in([*args, SCHEDULE])]
    lengths = [len(a) for a in args if isinstance(a, list)]
    call(*args)
    for tensor, copy, version in before:
        assert torch.equal(tensor, copy)
        assert tensor._version == version
    assert lengths == [len(a) for a in args if isinstance(a, list)]
