"""The linear prior: z_i as a linear function of z_t, a baseline that Kandinsky found strong (2310.03502)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.networks.linear_prior import LinearPriorNetwork
from modules.prior_batches import cosines, embeddings_of
from modules.training.stage import Stage, TrainingConfig, adamw


class LinearPrior(Stage):
    """Trains a LinearPriorNetwork by least squares: its optimum is E[z_i | z_t] among linear maps.

    Args:
        network: what is trained.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: LinearPriorNetwork,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(network, optimizer, training)

    def _loss(self, network: nn.Module, batch: EmbeddingBatch | ImageTextBatch) -> Tensor:
        rows = embeddings_of(batch)
        return F.mse_loss(network(rows.z_t), rows.z_i) * rows.z_i.shape[1]

    def training_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.trained, batch)

    def validation_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.averaged, batch)

    def judge(self, batch: EmbeddingBatch | ImageTextBatch) -> dict[str, Tensor]:
        rows = embeddings_of(batch)
        return cosines(self.predictions(batch, [])["z_i"], rows)

    def predictions(
        self, batch: EmbeddingBatch | ImageTextBatch, generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """z_i (B, D) of unit norm."""
        return {"z_i": F.normalize(self.averaged(embeddings_of(batch).z_t), dim=1)}
