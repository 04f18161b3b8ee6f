"""The common part of the diffusion models: the draw of training, the loss, the trajectory, the variational bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from modules.diffusion import samplers
from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.bound import Decoder as Likelihood
from modules.diffusion.bound import ModelVariance, VariationalBound, variational_bound
from modules.diffusion.clip_guidance import clip_guide
from modules.diffusion.denoiser import Denoiser, Threshold, as_denoiser
from modules.diffusion.denoiser import Model as Predictor
from modules.diffusion.guidance import guide
from modules.diffusion.noise import Generators
from modules.diffusion.schedules import NoiseSchedule, noise_interval, respace
from modules.diffusion.timestep_sampling import LossSecondMoment
from modules.errors import InputError
from modules.models.base import B, Model, changed, field_names
from modules.models.configs import DECODER_ONLY, SAMPLER_RULES, UPSAMPLER_ONLY, Objective, Rule, SamplerConfig
from modules.models.data_sizes import MODEL, DataSizes

if TYPE_CHECKING:
    from typing_extensions import Self

STATISTICS = "statistics."
"""Prefix of the score's statistics in an export's file of weights."""


class Evaluation(NamedTuple):
    """One training evaluation of the network.

    Attributes:
        x0, noise: (B, ...) the data and the noise that was added.
        t: (B,) int64 timesteps.
        output: (B, ...) what the network returned for x_t.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class DiffusionModel(Model[B]):
    """A network that predicts x0, epsilon or v, with its objective and its sampler.

    Attributes:
        objective: what is learned.
        sampler: how it is sampled.
        statistics: of the score, for analytic_dpm and analytic_ddim; None before the end of training, and for others.
        importance: recent losses, by which a training batch draws its timesteps; None draws them as when judged.
    """

    objective: Objective = Objective()
    sampler: SamplerConfig = SamplerConfig()
    statistics: ScoreStatistics | None = None
    importance: LossSecondMoment | None = None

    STATE: ClassVar[tuple[str, ...]] = ("statistics", "importance")
    likelihood: ClassVar[Likelihood] = "discretised"
    """Of the bound's last step: pictures have 256 values."""

    def evaluate(self, batch: B, generator: torch.Generator) -> Evaluation:
        """One training draw of a batch, and the network's output for it."""
        raise NotImplementedError

    def loss(self, batch: B, generator: torch.Generator) -> Tensor:
        return self.mean_loss(self.evaluate(batch, generator))

    def mean_loss(self, evaluation: Evaluation) -> Tensor:
        """Scalar loss; where timesteps are drawn by importance, weighted as if they were uniform, and remembered."""
        x0, noise, t, output = evaluation
        losses = self.objective.loss(output, x0, noise, t)
        if self.importance is None:
            return losses.mean()
        # Improved DDPM, section 3.3.
        weight = 1 / (self.objective.num_steps * self.importance.probabilities()[t])
        self.importance.update(self.objective.noise_schedule, over_ranks(t), over_ranks(losses.detach()))
        return (weight * losses).mean()

    def terms(self, batch: B, generator: torch.Generator) -> dict[str, Tensor]:
        x0, noise, t, output = self.evaluate(batch, generator)
        return {"x_0": x0, "the network's output": output, **self.objective.terms(output, x0, noise, t)}

    def drawn(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps (B,), noise and noised data (B, ...) of a training batch; see `Objective.draw`."""
        return self.objective.draw(x0, generator, self.importance)

    def conditioned(self, batch: B) -> tuple[Predictor, Tensor]:
        """The network with a batch's conditioning closed over, nothing dropped, and the batch's data (B, ...)."""
        raise NotImplementedError

    def output(self, batch: B) -> Tensor:
        predict, x0 = self.conditioned(batch)
        return predict(x0, torch.zeros(len(x0), dtype=torch.int64, device=x0.device))

    def as_denoiser(self, predict: Predictor, threshold: Threshold | None) -> Denoiser:
        """A (guided) network, read as the objective says, its estimate of the data kept in range by `threshold`."""
        objective = self.objective
        return as_denoiser(
            predict, objective.noise_schedule, objective.parameterization, objective.learned_sigma, threshold
        )

    def denoiser(self, batch: B) -> tuple[Denoiser, Tensor]:
        """As `conditioned`, but as a denoiser, thresholded as in sampling and without guidance."""
        predict, x0 = self.conditioned(batch)
        return self.as_denoiser(predict, self.sampler.clip), x0

    @torch.no_grad()
    def bound(
        self,
        batch: B,
        schedule: NoiseSchedule,
        generators: Generators,
        variance: ModelVariance,
        on_step: Callable[[], object] | None = None,
    ) -> VariationalBound:
        """Every term of the variational bound of a batch (Improved DDPM eq. 4 to 7).

        Args:
            batch: as in validation.
            schedule: the objective's, or a respaced one.
            generators: one for each of the batch's samples.
            variance: of the reverse steps.
            on_step: called after every step.
        """
        denoiser, x0 = self.denoiser(batch)
        return variational_bound(
            denoiser, schedule, x0, generators=generators, variance=variance, decoder=self.likelihood, on_step=on_step
        )

    @property
    def trajectory(self) -> NoiseSchedule:
        """The timesteps that sampling goes through.

        Raises:
            ValueError: the sampler asks for steps that the objective's schedule does not have.
        """
        with torch.device("cpu"):  # Numbers, also where a model is made as shapes only.
            return respace(self.objective.noise_schedule, self.sampler.steps, self.sampler.spacing)

    @property
    def has_statistics(self) -> bool:
        """Whether the score's statistics are known at every timestep of the trajectory."""
        known = self.statistics
        return known is not None and set(self.trajectory.timesteps.tolist()) <= set(known.timesteps.tolist())

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for one sample, guidance included: once a step outside its interval."""
        first, last = self.guidance_timesteps or (0, self.objective.num_steps)
        guided = sum(first <= timestep <= last for timestep in self.trajectory.timesteps.tolist())
        return self.sampler.steps + guided * (self.copies - 1)

    @property
    def copies(self) -> int:
        """How often the network is evaluated at one step: 2 with classifier-free guidance."""
        return 2 if self.sampler.guidance_scale != 1 else 1

    @property
    def guidance_timesteps(self) -> tuple[int, int] | None:
        """First and last timestep with guidance; None for all.

        Raises:
            ValueError: no timestep has a noise level in the sampler's guidance_interval.
        """
        levels = self.sampler.guidance_interval
        if levels is None:
            return None
        with torch.device("cpu"):
            return noise_interval(self.objective.noise_schedule, *levels)

    def guided(self, predict: Predictor, conditional: Predictor | None = None) -> Predictor:
        """Classifier-free guidance as the sampler says.

        Args:
            predict: for 2B samples, [conditional, unconditional] stacked.
            conditional: for B samples; what is evaluated outside the guidance interval.
        """
        sampler, interval = self.sampler, self.guidance_timesteps
        scale, rescale = sampler.guidance_scale, sampler.guidance_rescale
        return guide(predict, scale, interval=interval, rescale=rescale, conditional=conditional)

    def draw(
        self,
        predict: Predictor,
        x_T: Tensor,
        generators: Generators,
        *,
        on_step: samplers.OnStep | None = None,
        threshold: Threshold | None = None,
        similarity: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Samples (B, ...) from x_T by the model's sampler.

        Args:
            predict: (x_t, t) -> the network's output, guided already where it is to be guided.
            x_T: (B, ...) standard normal noise.
            generators: one for each of the B samples, for the noise of the steps.
            on_step: called after every step.
            threshold: instead of the sampler's.
            similarity: x0 (B, ...) -> (B,), followed as far as the sampler's clip_guidance_scale says.

        Raises:
            InputError: for clip_guidance_scale without a similarity; for analytic_dpm and analytic_ddim without
                statistics, or with those of other timesteps.
        """
        denoiser = self.as_denoiser(predict, threshold or self.sampler.clip)
        scale = self.sampler.clip_guidance_scale
        if scale:
            if similarity is None:
                raise InputError("clip_guidance_scale needs a CLIP to be guided by")
            denoiser = clip_guide(denoiser, self.objective.noise_schedule, similarity, scale)
        return self._sampler()(denoiser, self.trajectory, x_T, generators=generators, on_step=on_step)

    def _sampler(self) -> Callable[..., Tensor]:
        config = self.sampler
        by_name: dict[str, Callable[..., Tensor]] = {
            "ddpm": partial(samplers.ddpm, variance=config.variance),
            "ddim": partial(samplers.ddim, eta=config.eta),
            "dpm_solver_pp": samplers.dpm_solver_pp,
            "dpm_solver_pp_sde": partial(samplers.dpm_solver_pp, sde=True),
        }
        if not config.needs_statistics:
            return by_name[config.name]
        eta = 0.0 if config.name == "analytic_ddim" else 1.0
        return partial(samplers.analytic_dpm, statistics=self._known_statistics(), eta=eta)

    def _known_statistics(self) -> ScoreStatistics:
        name = self.sampler.name
        if self.statistics is None:
            raise InputError(
                f"{name} needs statistics of the score, which only a training with this sampler in its YAML estimates "
                "(at its end): take ddpm or ddim, or train the stage with it"
            )
        if not self.has_statistics:
            raise InputError(
                f"{name} has statistics of the score for the {len(self.statistics.timesteps)} timesteps that the stage "
                f"was trained to be sampled at, not for all of these {self.trajectory.num_steps}: keep steps and "
                "spacing, take another sampler, or train the stage with these"
            )
        return self.statistics

    def sampled_now(self) -> Self:
        """This model; before Analytic-DPM's statistics are known, with its mean and DDPM's variance."""
        return self if self.statistics is not None else replace(self, sampler=self.sampler.without_statistics())

    def tensors(self) -> dict[str, Tensor]:
        if self.statistics is None:
            return {}
        return {STATISTICS + name: tensor for name, tensor in self.statistics.to_tensors().items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        found = {k.removeprefix(STATISTICS): v for k, v in tensors.items() if k.startswith(STATISTICS)}
        return replace(self, statistics=ScoreStatistics.from_tensors(found)) if found else self

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        return dict(SAMPLER_RULES)

    @classmethod
    def overridable(cls) -> tuple[str, ...]:
        return tuple(name for name in field_names(SamplerConfig) if name not in DECODER_ONLY | UPSAMPLER_ONLY)

    def check(self) -> None:
        own, sampler = self.overridable(), self.sampler
        self._check_sigma()
        for name, unused in (DECODER_ONLY | UPSAMPLER_ONLY).items():
            if name not in own and getattr(sampler, name) != unused:
                whose = "decoders" if name in DECODER_ONLY else "upsamplers"
                raise InputError(f"model.init_args.sampler.{name} is for {whose} only: leave it out")
        if self.objective.zero_terminal_snr and (sampler.needs_statistics or sampler.clip_guidance_scale):
            what = sampler.name if sampler.needs_statistics else "clip_guidance_scale"
            raise InputError(f"{what} is not defined for a schedule that ends without signal: leave it out")

    def _check_sigma(self) -> None:
        """The variance is learned by both the network, which outputs it, and the objective, which trains it."""
        theirs = self.objective.learned_sigma
        if not hasattr(self.network, "learned_sigma"):
            if theirs:
                raise InputError(
                    f"model.objective.learned_sigma is true, a {type(self.network).__name__} has no variance: set it "
                    "to false"
                )
            return
        if self.network.learned_sigma != theirs:
            raise InputError(
                f"model.network.learned_sigma is {self.network.learned_sigma}, model.objective.learned_sigma is "
                f"{theirs}: make them equal"
            )

    def check_settings(self, sizes: DataSizes) -> None:
        objective, sampler = self.objective, self.sampler
        try:
            _ = self.trajectory, self.guidance_timesteps
        except ValueError as error:
            raise InputError(
                f"{MODEL}.sampler: {error} (steps {sampler.steps}, spacing {sampler.spacing}, objective.num_steps "
                f"{objective.num_steps}): ask for fewer steps, or for another spacing"
            ) from error
        if sampler.name == "ddpm" and sampler.variance == "learned" and not objective.learned_sigma:
            raise InputError(
                f"{MODEL}.sampler.variance is learned, {MODEL}.objective.learned_sigma is false: set that to true (and "
                "the network's), or take the variance fixed_small or fixed_large"
            )

    def overridden(self, name: str, settings: Mapping[str, object]) -> Self:
        """See `Model.overridden`. DDPM's variance is "fixed_small" where none was learned and no other is asked for.

        Raises:
            InputError: also for an impossible trajectory, or a learned variance of a stage without learned sigma.
        """
        model = super().overridden(name, settings)
        sampler = model.sampler
        if sampler.name == "ddpm" and sampler.variance == "learned" and not self.objective.learned_sigma:
            if "variance" in settings:
                raise InputError(f"{name}: variance learned needs a stage that was trained with learned sigma")
            # A stage that is sampled otherwise has a variance of DDPM's too, which nobody has chosen.
            model = replace(model, sampler=replace(sampler, variance="fixed_small"))
        try:
            _ = model.trajectory
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        try:
            _ = model.guidance_timesteps
        except ValueError as error:
            raise InputError(f"{name}: guidance_interval: {error}") from error
        return model

    def _with_settings(self, settings: dict[str, object]) -> Self:
        return replace(self, sampler=changed(self.sampler, settings))


def over_ranks(values: Tensor) -> Tensor:
    """(B, ...) of every rank, one behind another; the tensor itself where there is one rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
