"""The MLP diffusion prior's network: residual MLP blocks that know the time (RCG, Li et al. 2312.03701, appendix).

RCG's network predicts a representation without any condition, or with a class. Here z_t stands where RCG adds the
class: beside the time embedding. The caption's tokens are not read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.blocks import TimeEmbedding
from modules.networks.prior import Denoise, DenoisingPriorNetwork
from modules.networks.transformer import scale_to_unit_variance


class MLPBlock(nn.Module):
    """x + second(norm(first(norm(x)) + condition)): LayerNorm, SiLU and Linear twice, the condition between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.first = nn.LayerNorm(width), nn.Linear(width, width)
        self.condition = nn.Linear(width, width)
        self.norm_2, self.second = nn.LayerNorm(width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)  # The stack starts as the identity.
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, W) and (B, W) -> (B, W)."""
        hidden = self.first(F.silu(self.norm_1(x))) + self.condition(F.silu(condition))
        return x + self.second(F.silu(self.norm_2(hidden)))


class MLPPriorNetwork(DenoisingPriorNetwork):
    """Predicts the un-noised (scaled) z_i from the noised z_i, the timestep and z_t.

    Args:
        embedding_dim: D of the CLIP embeddings.
        width: of the hidden layers; RCG has 1,536.
        depth: number of blocks; RCG has 12.
    """

    def __init__(self, embedding_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.time = TimeEmbedding(width, width)
        self.z_i, self.z_t = nn.Linear(embedding_dim, width), nn.Linear(embedding_dim, width)
        self.no_z_t = nn.Parameter(torch.randn(width) * 0.05)
        self.blocks = nn.ModuleList(MLPBlock(width) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, embedding_dim)

    def _text(self, z_t: Tensor, keep: Tensor | None) -> Tensor:
        """(B, width) of z_t, or of its learned stand-in where it is dropped."""
        text = self.z_t(scale_to_unit_variance(z_t))
        return text if keep is None else torch.where(keep[:, None], text, self.no_z_t)

    def _predicted(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        condition = self.time(t) + text  # (B, width)
        hidden = self.z_i(x_t)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.out(F.silu(self.norm(hidden)))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        z_t: Tensor,
        keep: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """As `DenoisingPriorNetwork.forward`; `tokens` and `mask` are not read."""
        return self._predicted(x_t, t, self._text(z_t, keep))

    def given(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Denoise:
        text = self._text(z_t, keep)
        return lambda x_t, t: self._predicted(x_t, t, text)
