"""What the diffusion stages share: the score's statistics for Analytic-DPM, and the variational bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from modules.diffusion.analytic import ScoreStatistics, estimate_statistics
from modules.diffusion.bound import Decoder as Likelihood
from modules.diffusion.bound import ModelVariance, VariationalBound, variational_bound
from modules.diffusion.denoiser import Denoiser, Model, as_denoiser
from modules.diffusion.noise import Generators
from modules.diffusion.schedules import NoiseSchedule, respace
from modules.diffusion.timestep_sampling import LossSecondMoment
from modules.models.configs import STATISTICS, Objective, SamplerConfig
from modules.training.stage import Stage, TrainingConfig

CHECKPOINT_KEY = "score_statistics"


class DiffusionStage(Stage):
    """Base of the diffusion stages: a subclass gives `conditioned` besides what `Stage` wants.

    If the sampler is one of Analytic-DPM's, the mean squared score that it needs is estimated when training has reached
    its end, from training data, at the timesteps of the sampler's trajectory; it goes into the checkpoint and, with the
    averaged weights, into the export.

    Args:
        network, optimizer, training: see Stage.
        objective: what is learned.
        sampler: how validation and `unclip sample` draw from the stage.
        statistics_samples: how many training data the score's statistics are estimated from.
    """

    likelihood: Likelihood = "discretised"
    """Of the bound's last step: pictures have 256 values."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        sampler: SamplerConfig,
        optimizer: OptimizerCallable,
        training: TrainingConfig,
        statistics_samples: int = 2048,
    ) -> None:
        super().__init__(network, optimizer, training)
        _ = objective.noise_schedule  # One that there is not is refused now, and not at the first step.
        self.objective, self.sampler, self.statistics_samples = objective, sampler, statistics_samples
        self.statistics: ScoreStatistics | None = None
        by_loss = objective.timesteps == "loss_second_moment"
        self.importance = LossSecondMoment(objective.num_steps) if by_loss else None

    def draw(self, network: Any, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps, noise and noised data, see `Objective.draw`; the average is judged without importance."""
        return self.objective.draw(x0, generator, None if network is self.averaged else self.importance)

    def mean_loss(self, network: Any, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Scalar loss of `draw`'s batch; where timesteps are drawn by importance, weighted as if they were uniform."""
        losses = self.objective.loss(output, x0, noise, t)
        if self.importance is None or network is self.averaged:
            return losses.mean()
        weight = 1 / (self.objective.num_steps * self.importance.probabilities()[t])
        seen = t, losses.detach()
        if self.trainer.world_size > 1:
            seen = tuple(torch.cat(list(self.all_gather(x))) for x in seen)  # type: ignore[arg-type, assignment]
        self.importance.update(self.objective.noise_schedule, *seen)
        return (weight * losses).mean()

    def loss_terms(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        objective = self.objective

        class Watched(Objective):
            def loss(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
                seen.update({"x_0": x0, "the network's output": output, **self.terms(output, x0, noise, t)})
                return super().loss(output, x0, noise, t)

        self.objective = Watched(**{field.name: getattr(objective, field.name) for field in fields(objective)})
        try:
            self.training_loss(batch, generator)
        finally:
            self.objective = objective
        return seen

    def conditioned(self, batch: Any) -> tuple[Model, Tensor]:
        """The averaged network with a batch's conditioning closed over, nothing dropped, and its data (B, ...)."""
        raise NotImplementedError

    def denoiser(self, batch: Any) -> tuple[Denoiser, Tensor]:
        """As `conditioned`, but as a denoiser, thresholded as in sampling and without guidance."""
        model, x0 = self.conditioned(batch)
        objective = self.objective
        reads = objective.parameterization, objective.learned_sigma, self.sampler.threshold
        return as_denoiser(model, objective.noise_schedule, *reads), x0

    @torch.no_grad()
    def bound(
        self, batch: Any, schedule: NoiseSchedule, generators: Generators, variance: ModelVariance
    ) -> VariationalBound:
        """Every term of the variational bound of a batch under the averaged network (Improved DDPM eq. 4 to 7).

        Args:
            batch: as in validation.
            schedule: the objective's, or a respaced one.
            generators: one for each of the batch's samples.
            variance: of the reverse steps.
        """
        denoiser, x0 = self.denoiser(batch)
        return variational_bound(
            denoiser, schedule, x0, generators=generators, variance=variance, decoder=self.likelihood
        )

    @property
    def trajectory(self) -> NoiseSchedule:
        """The sampler's timesteps."""
        return respace(self.objective.noise_schedule, self.sampler.steps, self.sampler.spacing)

    @property
    def sampler_now(self) -> SamplerConfig:
        """The sampler; before Analytic-DPM's statistics are known, its mean with DDPM's variance."""
        return self.sampler if self.statistics is not None else self.sampler.without_statistics()

    def on_train_epoch_end(self) -> None:
        # Lightning's one epoch is the whole run; what comes here is before the last checkpoint is written.
        if self.sampler.needs_statistics and self.global_step >= self.trainer.max_steps:
            dropout = self.averaged.training
            self.averaged.eval()
            self.statistics = estimate_statistics(self._statistics_batches(), self.trajectory, self.generator(2))
            self.averaged.train(dropout)

    def _statistics_batches(self) -> Iterator[tuple[Denoiser, Tensor]]:
        source: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        data, size = source.dataset("train"), source.batch_size
        count = min(self.statistics_samples, len(data))
        # Spread over the whole set, which may be sorted.
        positions = [k * len(data) // count for k in range(count)]
        for start in range(0, count, size):
            yield self.denoiser(self.transfer(data.__getitems__(positions[start : start + size])))

    def transfer(self, batch: Any) -> Any:
        """A batch on this stage's device."""
        return self.transfer_batch_to_device(batch, self.device, 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.statistics is not None:
            checkpoint[CHECKPOINT_KEY] = self.statistics.to_tensors()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if CHECKPOINT_KEY in checkpoint:
            self.statistics = ScoreStatistics.from_tensors(checkpoint[CHECKPOINT_KEY])

    def exported_state(self) -> dict[str, Tensor]:
        state = super().exported_state()
        if self.statistics is not None:
            state |= {STATISTICS + name: tensor for name, tensor in self.statistics.to_tensors().items()}
        return state
