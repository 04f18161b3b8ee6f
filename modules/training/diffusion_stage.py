"""Training a diffusion model: importance of timesteps, the score's statistics for Analytic-DPM, the bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.clip.caption_tokens import MERGES
from modules.diffusion.analytic import ScoreStatistics, estimate_statistics
from modules.diffusion.denoiser import Denoiser
from modules.diffusion.schedules import NoiseSchedule
from modules.diffusion.timestep_sampling import LossSecondMoment
from modules.errors import InputError
from modules.models.base import B
from modules.models.configs import Objective, SamplerConfig
from modules.models.data_sizes import MODEL, DataSizes
from modules.models.diffusion_model import DiffusionModel
from modules.training.model_stage import ModelStage
from modules.training.stage import TrainingConfig

CHECKPOINT_KEY = "score_statistics"

D = TypeVar("D", bound=DiffusionModel)


class DiffusionStage(ModelStage[D, B]):
    """Base of the LightningModules that train a diffusion model.

    A sampler of Analytic-DPM needs the mean squared score. It is estimated at the end of the training, from training
    data, at the timesteps of the sampler's trajectory. It goes into the checkpoint and, with the averaged weights, into
    the export.

    Args:
        model: what is trained.
        optimizer, training: see Stage.
        statistics_samples: how many training data the score's statistics are estimated from.
    """

    def __init__(
        self, model: D, optimizer: OptimizerCallable, training: TrainingConfig, statistics_samples: int = 2048
    ) -> None:
        super().__init__(model, optimizer, training)
        _ = model.objective.noise_schedule  # Refuse an unknown schedule here, not at the first step.
        self.statistics_samples = statistics_samples
        by_loss = model.objective.timesteps == "loss_second_moment"
        # A module of the stage, so that checkpoints hold it.
        self.importance = LossSecondMoment(model.objective.num_steps) if by_loss else None

    def check_settings(self, sizes: DataSizes) -> None:
        super().check_settings(sizes)
        if self.sampler.needs_statistics and self.statistics_samples < 1:
            raise InputError(
                f"{MODEL}.statistics_samples is {self.statistics_samples}: the sampler {self.sampler.name} needs 1 or "
                "more"
            )

    @property
    def objective(self) -> Objective:
        """What is learned."""
        return self._model.objective

    @property
    def sampler(self) -> SamplerConfig:
        """How the model is sampled."""
        return self._model.sampler

    @property
    def statistics(self) -> ScoreStatistics | None:
        """The score's statistics; None before the end of training."""
        return self._model.statistics

    @property
    def trajectory(self) -> NoiseSchedule:
        """The timesteps that sampling goes through."""
        return self._model.trajectory

    @property
    def model(self) -> D:
        """The model with the trained network and, for timesteps "loss_second_moment", with the recent losses."""
        return replace(self._model, network=self.trained, importance=self.importance)

    @property
    def averaged_model(self) -> D:
        """The model with the averaged network. Until the statistics are known, it has a sampler that needs none."""
        return replace(self._model, network=self.averaged).sampled_now()

    def _estimated(self) -> ScoreStatistics:
        dropout = self.averaged.training
        self.averaged.eval()
        found = estimate_statistics(self._statistics_batches(), self._model.trajectory, self.generator(2))
        self.averaged.train(dropout)
        return found

    def on_train_end(self) -> None:
        super().on_train_end()
        # Whatever has ended training; the last checkpoint is written after this.
        if self.sampler.needs_statistics:
            self._model = replace(self._model, statistics=self._estimated())

    def _statistics_batches(self) -> Iterator[tuple[Denoiser, Tensor]]:
        source: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        data, size = source.dataset("train"), source.batch_size
        count = min(self.statistics_samples, len(data))
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            count = min(count, size)  # One batch shows whether it works.
        # Spread over the whole set, which may be sorted.
        positions = [k * len(data) // count for k in range(count)]
        for start in range(0, count, size):
            yield self.averaged_model.denoiser(self.transfer(data.__getitems__(positions[start : start + size])))

    def transfer(self, batch: B) -> B:
        """A batch on this stage's device."""
        moved: B = self.transfer_batch_to_device(batch, self.device, 0)
        return moved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.statistics is not None:
            checkpoint[CHECKPOINT_KEY] = self.statistics.to_tensors()
        if MERGES in (beside := self._model.tensors()):
            checkpoint[MERGES] = beside[MERGES]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if CHECKPOINT_KEY in checkpoint:
            self._model = replace(self._model, statistics=ScoreStatistics.from_tensors(checkpoint[CHECKPOINT_KEY]))
        if MERGES in checkpoint:
            self._model = self._model.with_tensors({MERGES: checkpoint[MERGES]})
