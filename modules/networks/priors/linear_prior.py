"""The linear prior's network: one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from modules.networks.priors.prior import PriorNetwork


class LinearPriorNetwork(PriorNetwork):
    """(B, D) z_t of unit norm -> (B, D) estimate of z_i, not normalised."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.linear = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, z_t: Tensor) -> Tensor:
        return self.linear(z_t)
