"""The linear prior: z_i as a linear function of z_t, a baseline that Kandinsky found strong (2310.03502)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions, embeddings_of
from modules.models.base import Batch, Prior
from modules.networks.priors.linear_prior import LinearPriorNetwork


@dataclass(frozen=True, eq=False)
class LinearPriorModel(Prior):
    """Least squares: the optimum is E[z_i | z_t] among linear maps.

    Attributes:
        network: (B, D) z_t -> (B, D).
    """

    network: LinearPriorNetwork

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Squared distance to z_i, mean over the batch; nothing is drawn."""
        rows = embeddings_of(batch)
        return F.mse_loss(self.network(rows.z_t), rows.z_i) * rows.z_i.shape[1]

    def output(self, batch: Batch) -> Tensor:
        found: Tensor = self.network(embeddings_of(batch).z_t)
        return found

    @torch.no_grad()
    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) of unit norm; the same one at every draw."""
        return F.normalize(self.network(captions.z_t), dim=1)
