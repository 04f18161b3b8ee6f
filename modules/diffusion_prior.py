"""The diffusion prior: p(z_i | y) as a diffusion over CLIP image embeddings (unCLIP, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.diffusion.analytic import ScoreStatistics, estimate_statistics
from modules.diffusion.denoiser import Denoiser, as_denoiser
from modules.diffusion.schedules import respace
from modules.networks.diffusion_prior import DiffusionPriorNetwork, embedding_scale
from modules.objective import Objective, SamplerConfig
from modules.prior_batches import cosines, embeddings_of, per_sample_generators
from modules.sampling import sample_diffusion_prior
from modules.stage import Stage, TrainingConfig, adamw

STATISTICS = "statistics."  # Prefix of the score's statistics in the exported file.


class DiffusionPrior(Stage):
    """Trains a DiffusionPriorNetwork.

    When training ends, the mean squared score that Analytic-DPM needs is estimated from training data, at the
    timesteps of the sampler's trajectory, and exported with the weights.

    Args:
        network: what is trained.
        objective: the paper's: x0 prediction, cosine schedule, 1,000 steps.
        sampler: how validation and `unclip sample` draw from it.
        drop_text: how often caption and z_t are dropped together.
        statistics_samples: training embeddings for the score's statistics.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: DiffusionPriorNetwork,
        objective: Objective = Objective(parameterization="x0"),
        sampler: SamplerConfig = SamplerConfig(name="analytic_dpm", steps=64, spacing="adm", threshold=None),
        drop_text: float = 0.1,
        statistics_samples: int = 2048,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(network, optimizer, training)
        self.objective, self.sampler, self.drop_text = objective, sampler, drop_text
        self.statistics_samples = statistics_samples
        self.scale = embedding_scale(network.embedding_dim)
        self._statistics: ScoreStatistics | None = None

    def _loss(self, network: Any, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        z_i, z_t, tokens, _ = embeddings_of(batch)
        x0 = z_i * self.scale
        t, noise, x_t = self.objective.draw(x0, generator)
        keep = (torch.rand(len(x0), generator=generator) >= self.drop_text).to(x0.device)
        return self.objective.loss(network(x_t, t, tokens, z_t, keep), x0, noise, t).mean()

    def training_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.trained, batch, generator)

    def validation_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.averaged, batch, generator)

    def judge(self, batch: EmbeddingBatch | ImageTextBatch) -> dict[str, Tensor]:
        rows = EmbeddingBatch(*(tensor[:64] for tensor in embeddings_of(batch)))
        # Analytic-DPM's statistics are there at the end of training only; until then its mean with DDPM's variance.
        sampler = replace(self.sampler, name="ddpm") if self.sampler.name == "analytic_dpm" else self.sampler
        generators = per_sample_generators(len(rows.z_t))
        z_i = sample_diffusion_prior(
            self.averaged, self.objective, sampler, self.scale, rows.tokens, rows.z_t, generators
        )
        return cosines(z_i, rows)

    def on_train_end(self) -> None:
        if self.sampler.name == "analytic_dpm":
            schedule = respace(self.objective.noise_schedule, self.sampler.steps, self.sampler.spacing)
            self._statistics = estimate_statistics(self._statistics_batches(), schedule, self.generator(2))

    def _statistics_batches(self) -> Iterator[tuple[Denoiser, Tensor]]:
        data = self.trainer.datamodule.dataset("train")  # type: ignore[attr-defined]
        count = min(self.statistics_samples, len(data))
        for start in range(0, count, 256):
            rows = embeddings_of(data.__getitems__(list(range(start, min(start + 256, count)))))
            rows = EmbeddingBatch(*(tensor.to(self.device) for tensor in rows))
            cache = self.averaged.encode(rows.tokens, rows.z_t)

            def model(x_t: Tensor, t: Tensor, cache: Any = cache) -> Tensor:
                return self.averaged.step(x_t, t, cache)

            yield (
                as_denoiser(model, self.objective.noise_schedule, self.objective.parameterization),
                rows.z_i * self.scale,
            )

    def exported_state(self) -> dict[str, Tensor]:
        state = super().exported_state()
        if self._statistics is not None:
            state |= {STATISTICS + name: tensor for name, tensor in self._statistics.to_tensors().items()}
        return state
