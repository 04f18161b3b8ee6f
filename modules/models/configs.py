"""What a diffusion stage learns and how it is sampled: two small records that a YAML fills in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from modules.diffusion import losses, samplers, timestep_sampling
from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.denoiser import Model, Threshold, as_denoiser
from modules.diffusion.gaussian import Parameterization, q_sample
from modules.diffusion.losses import Weighting
from modules.diffusion.schedules import NoiseSchedule, Spacing, cosine, linear, rescale_zero_terminal_snr, respace
from modules.errors import InputError

SamplerName = Literal["ddpm", "ddim", "analytic_dpm", "analytic_ddim", "dpm_solver_pp", "dpm_solver_pp_sde"]

STATISTICS = "statistics."
"""Prefix of the score's statistics in a stage's exported file."""


@dataclass(frozen=True)
class Objective:
    """What is learned (the rows "diffusion steps" and "noise schedule" of the paper's Table 3, and section 2).

    Attributes:
        schedule: "cosine" (Improved DDPM) or "linear" (DDPM).
        num_steps: T, the steps of the training schedule.
        parameterization: what the network predicts. The paper: epsilon in the decoder and upsamplers, x0 in the prior.
        learned_sigma: the network also outputs the variance; the loss is the hybrid one (Improved DDPM eq. 16).
        weighting, gamma: of the loss over timesteps, see `modules.diffusion.losses.loss_weight`.
        bound_weight: of the variational bound beside L_simple, with learned sigma.
        timesteps: how a training batch draws its timesteps; "loss_second_moment" is importance sampling by recent
            losses (Improved DDPM 3.3), which the stage remembers.
        timestep_mean, timestep_std: of the logit-normal draw.
        zero_terminal_snr: rescale the schedule to end without signal (Lin et al. 2305.08891); not with epsilon.
    """

    schedule: Literal["cosine", "linear"] = "cosine"
    num_steps: int = 1000
    parameterization: Parameterization = "epsilon"
    learned_sigma: bool = False
    weighting: Weighting = "none"
    gamma: float = 5.0
    bound_weight: float = 0.001
    timesteps: Literal["uniform", "antithetic", "logit_normal", "loss_second_moment"] = "uniform"
    timestep_mean: float = 0.0
    timestep_std: float = 1.0
    zero_terminal_snr: bool = False

    @cached_property
    def noise_schedule(self) -> NoiseSchedule:
        """The training schedule."""
        schedule = {"cosine": cosine, "linear": linear}[self.schedule](self.num_steps)
        return rescale_zero_terminal_snr(schedule) if self.zero_terminal_snr else schedule

    def draw(
        self,
        x0: Tensor,
        generator: torch.Generator,
        importance: timestep_sampling.LossSecondMoment | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps, noise and noised data of one training batch.

        Args:
            x0: (B, ...) data.
            generator: on the CPU, so that the draw does not depend on the device.
            importance: the losses so far; without, "loss_second_moment" is uniform, as it is when a stage is judged.

        Returns:
            t (B,) int64, noise (B, ...), x_t (B, ...), on x0's device.
        """
        draws: dict[str, Callable[..., timestep_sampling.TimestepSample]] = {
            "uniform": timestep_sampling.uniform,
            "antithetic": timestep_sampling.antithetic,
            "loss_second_moment": importance or timestep_sampling.uniform,
            "logit_normal": partial(timestep_sampling.logit_normal, mean=self.timestep_mean, std=self.timestep_std),
        }
        t = draws[self.timesteps](self.noise_schedule, len(x0), generator).t.to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        return t, noise, q_sample(self.noise_schedule, x0, t, noise)

    def loss(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(B,) loss of a network's output for `draw`'s x_t."""
        arguments = (output, self.noise_schedule, x0, noise, t, self.parameterization, self.weighting, self.gamma)
        if self.learned_sigma:
            return losses.hybrid_loss(*arguments, bound_weight=self.bound_weight)
        return losses.diffusion_loss(*arguments)

    def terms(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """What `loss` is the sum of, (B,) each: L_simple and, with learned sigma, the weighted L_vlb."""
        mean = output[:, : x0.shape[1]]
        arguments = (self.noise_schedule, x0, noise, t, self.parameterization, self.weighting, self.gamma)
        simple = losses.diffusion_loss(mean, *arguments)
        if not self.learned_sigma:
            return {"L_simple": simple}
        whole = losses.hybrid_loss(output, *arguments, bound_weight=self.bound_weight)
        return {"L_simple": simple, "L_vlb": whole - simple}


@dataclass(frozen=True)
class SamplerConfig:
    """How a stage is sampled (the rows "sampling steps" and "sampling variance" of the paper's Table 3).

    Attributes:
        name: of the sampler in `modules.diffusion.samplers`; analytic_ddim is analytic_dpm with eta 0,
            dpm_solver_pp_sde the stochastic solver.
        steps: network evaluations of one trajectory.
        spacing: of the timesteps, see `modules.diffusion.schedules.respace`.
        guidance_scale: of classifier-free guidance; 1 is none.
        guidance_interval: smallest and largest sigma = sqrt((1 - alpha_bar) / alpha_bar) with guidance; null for all.
        guidance_rescale: how far to bring the guided deviation back, 0 to 1, see `modules.diffusion.guidance.guide`.
        eta: of DDIM: 0 deterministic, 1 ancestral.
        variance: of DDPM.
        threshold: keeps the estimate of the data in [-1, 1]; null for embeddings.
    """

    name: SamplerName = "ddim"
    steps: int = 50
    spacing: Spacing = "trailing"
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    eta: float = 0.0
    variance: samplers.Variance = "fixed_small"
    threshold: Literal["static", "dynamic"] | None = "static"

    @property
    def needs_statistics(self) -> bool:
        """Whether this is one of Analytic-DPM's, which need the score's statistics."""
        return self.name in ("analytic_dpm", "analytic_ddim")

    def without_statistics(self) -> SamplerConfig:
        """This sampler, or the nearest one that needs no statistics: the same mean, DDPM's or DDIM's variance."""
        names: dict[SamplerName, SamplerName] = {"analytic_dpm": "ddpm", "analytic_ddim": "ddim"}
        return replace(self, name=names[self.name]) if self.name in names else self


def sample(
    model: Model,
    objective: Objective,
    sampler: SamplerConfig,
    x_T: Tensor,
    generators: Sequence[torch.Generator],
    *,
    statistics: ScoreStatistics | None = None,
    on_step: samplers.OnStep | None = None,
    threshold: Threshold | None = None,
) -> Tensor:
    """Draw from a trained network.

    Args:
        model: (x_t, t) -> the network's output, guided already where it is to be guided.
        objective: what it was trained for.
        sampler: how to sample it; its guidance_scale is the business of whoever made `model`.
        x_T: (B, ...) standard normal noise.
        generators: one for each of the B samples, for the noise of the steps.
        statistics: of the score, for analytic_dpm and analytic_ddim.
        on_step: called after every step.
        threshold: instead of the sampler's.

    Returns:
        (B, ...) samples.

    Raises:
        InputError: for analytic_dpm and analytic_ddim without statistics, or with those of other timesteps.
    """
    denoiser = as_denoiser(
        model,
        objective.noise_schedule,
        objective.parameterization,
        objective.learned_sigma,
        threshold or sampler.threshold,
    )
    schedule = respace(objective.noise_schedule, sampler.steps, sampler.spacing)
    run: dict[str, Callable[..., Tensor]] = {
        "ddpm": partial(samplers.ddpm, variance=sampler.variance),
        "ddim": partial(samplers.ddim, eta=sampler.eta),
        "dpm_solver_pp": samplers.dpm_solver_pp,
        "dpm_solver_pp_sde": partial(samplers.dpm_solver_pp, sde=True),
    }
    if sampler.needs_statistics:
        known = _measured(schedule, statistics, sampler.name)
        eta = 0.0 if sampler.name == "analytic_ddim" else 1.0
        return samplers.analytic_dpm(
            denoiser, schedule, x_T, generators=generators, on_step=on_step, statistics=known, eta=eta
        )
    return run[sampler.name](denoiser, schedule, x_T, generators=generators, on_step=on_step)


def _measured(schedule: NoiseSchedule, statistics: ScoreStatistics | None, name: str) -> ScoreStatistics:
    if statistics is None:
        raise InputError(f"{name} needs the score's statistics; they are estimated when the stage's training ends")
    if not set(schedule.timesteps.tolist()) <= set(statistics.timesteps.tolist()):
        raise InputError(
            f"{name} has statistics of the score for the {len(statistics.timesteps)} timesteps that the stage was "
            f"trained to be sampled at, not for all of these {schedule.num_steps}: keep steps and spacing, take "
            "another sampler, or train the stage with these"
        )
    return statistics
