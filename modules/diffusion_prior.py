"""The diffusion prior: p(z_i | y) as a diffusion over CLIP image embeddings (unCLIP, section 2.2)."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.diffusion.denoiser import Model
from modules.models.configs import Objective, SamplerConfig
from modules.networks.diffusion_prior import DiffusionPriorNetwork, embedding_scale
from modules.prior_batches import cosines, embeddings_of, per_sample_generators, text_of
from modules.sampling import sample_diffusion_prior
from modules.training.diffusion_stage import DiffusionStage
from modules.training.stage import TrainingConfig, adamw


class DiffusionPrior(DiffusionStage):
    """Trains a DiffusionPriorNetwork.

    Args:
        network: what is trained.
        objective: the paper's: x0 prediction, cosine schedule, 1,000 steps.
        sampler: how validation and `unclip sample` draw from it.
        drop_text: how often caption and z_t are dropped together.
        statistics_samples: see DiffusionStage.
        optimizer, training: see Stage.
    """

    likelihood = "gaussian"

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
        super().__init__(network, objective, sampler, optimizer, training, statistics_samples)
        self.drop_text = drop_text
        self.scale = embedding_scale(network.embedding_dim)

    def _loss(self, network: Any, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        rows = embeddings_of(batch)
        x0 = rows.z_i * self.scale
        t, noise, x_t = self.draw(network, x0, generator)
        keep = (torch.rand(len(x0), generator=generator) >= self.drop_text).to(x0.device)
        return self.mean_loss(network, network(x_t, t, text_of(network, rows), rows.z_t, keep), x0, noise, t)

    def training_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.trained, batch, generator)

    def validation_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.averaged, batch, generator)

    def judge(self, batch: EmbeddingBatch | ImageTextBatch) -> dict[str, Tensor]:
        rows = embeddings_of(batch).rows(slice(64))
        return cosines(self._draw(rows, per_sample_generators(len(rows.z_t))), rows)

    def predictions(
        self, batch: EmbeddingBatch | ImageTextBatch, generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """z_i (B, D) of unit norm, drawn."""
        return {"z_i": self._draw(embeddings_of(batch), generators)}

    def _draw(self, rows: EmbeddingBatch, generators: list[torch.Generator]) -> Tensor:
        return sample_diffusion_prior(
            self.averaged,
            self.objective,
            self.sampler_now,
            self.scale,
            text_of(self.averaged, rows),
            rows.z_t,
            generators,
            statistics=self.statistics,
        )

    def conditioned(self, batch: EmbeddingBatch | ImageTextBatch) -> tuple[Model, Tensor]:
        rows = embeddings_of(batch)
        cache = self.averaged.encode(text_of(self.averaged, rows), rows.z_t)

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            return self.averaged.step(x_t, t, cache)

        return model, rows.z_i * self.scale
