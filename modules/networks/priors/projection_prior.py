"""The network of the priors without diffusion: the diffusion prior's Transformer without time and noise (ECLIPSE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.networks.priors.prior import PriorNetwork
from modules.networks.transformer import Transformer, caption_embedding, scale_to_unit_variance


class ProjectionPriorNetwork(PriorNetwork):
    """Predicts z_i from [caption tokens, z_t, learned token] in one evaluation (ECLIPSE, 2312.04655, section 4).

    Differs from ECLIPSE: no noise is an input. Trained by squared error, a network learns to ignore it.

    Args:
        embedding_dim: D of the CLIP embeddings.
        vocab_size, context_length: of the tokeniser.
        width, depth, heads: of the Transformer.
        dropout: on its residual branches.
        checkpointing: recompute the Transformer's activations in the backward pass.
        feature_dim: see `modules.networks.priors.diffusion_prior.DiffusionPriorNetwork`.
    """

    def __init__(
        self,
        embedding_dim: int,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        checkpointing: bool = False,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.feature_dim = embedding_dim, feature_dim
        self.tokens = caption_embedding(vocab_size, context_length, width, feature_dim)
        self.z_t = nn.Linear(embedding_dim, width)
        self.no_text = nn.Parameter(torch.randn(width) * 0.05)
        self.query = nn.Parameter(torch.randn(width) * 0.05)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout, checkpointing=checkpointing)
        self.out = nn.Linear(width, embedding_dim)

    def forward(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None) -> Tensor:
        """One evaluation.

        Args:
            tokens: (B, L) caption tokens; with `feature_dim`, their (B, L, F) features.
            z_t: (B, D) CLIP text embeddings of unit norm.
            keep: (B,) bool, False where the text is dropped; None keeps all.

        Returns:
            (B, D) estimate of z_i, in the scale of a unit vector, not normalised.
        """
        prefix = torch.cat([self.tokens(tokens), self.z_t(scale_to_unit_variance(z_t))[:, None]], dim=1)
        if keep is not None:
            prefix = torch.where(keep[:, None, None], prefix, self.no_text)
        query = self.query.expand(len(z_t), 1, -1)
        hidden = self.transformer(torch.cat([prefix, query], dim=1), last_only=True)[:, 0]
        return self.out(hidden) / self.embedding_dim**0.5
