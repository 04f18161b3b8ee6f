"""The diffusion prior's network: a causal Transformer over caption, z_t, timestep, noised z_i (unCLIP, 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.networks.blocks import TimeEmbedding
from modules.networks.prior import Denoise, DenoisingPriorNetwork
from modules.networks.transformer import (
    FeatureEmbedding,
    KeyValueCache,
    TokenEmbedding,
    Transformer,
    scale_to_unit_variance,
    unique_rows,
)

SUFFIX = 3  # timestep, noised z_i, and the learned token whose output is the prediction


class DiffusionPriorNetwork(DenoisingPriorNetwork):
    """Predicts the un-noised (scaled) z_i from [caption tokens, z_t, timestep, noised z_i, learned token].

    Dropping the condition drops the caption and z_t only; the noised z_i and the timestep always stay.

    Args:
        embedding_dim: D of the CLIP embeddings.
        vocab_size, context_length: of the tokeniser.
        width, depth, heads: of the Transformer.
        dropout: on its residual branches.
        checkpointing: recompute the Transformer's activations in the backward pass.
        feature_dim: F of a frozen CLIP's features of every caption token, which then stand where the tokens' own
            embeddings do (batches with `token_features`); null learns embeddings of the tokens.
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
        self.tokens: TokenEmbedding | FeatureEmbedding
        if feature_dim is None:
            self.tokens = TokenEmbedding(vocab_size, context_length, width)
        else:
            self.tokens = FeatureEmbedding(feature_dim, context_length, width)
        self.z_t = nn.Linear(embedding_dim, width)
        self.time = TimeEmbedding(width, width)
        self.z_i = nn.Linear(embedding_dim, width)
        # Learned stand-ins for a dropped caption and z_t, and for the query.
        self.no_token = nn.Parameter(torch.randn(width) * 0.05)
        self.no_z_t = nn.Parameter(torch.randn(width) * 0.05)
        self.query = nn.Parameter(torch.randn(width) * 0.05)
        self.positions = nn.Parameter(torch.randn(1 + SUFFIX, width) * 0.05)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout, checkpointing=checkpointing)
        self.out = nn.Linear(width, embedding_dim)

    def _prefix(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None) -> Tensor:
        """(B, L + 1, width)."""
        words, text = self.tokens(tokens), self.z_t(scale_to_unit_variance(z_t))
        if keep is not None:
            words = torch.where(keep[:, None, None], words, self.no_token + self.tokens.positions)
            text = torch.where(keep[:, None], text, self.no_z_t)
        return torch.cat([words, (text + self.positions[0])[:, None]], dim=1)

    def _suffix(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, 3, width)."""
        parts = [self.time(t), self.z_i(x_t), self.query.expand(len(x_t), -1)]
        return torch.stack(parts, dim=1) + self.positions[1:]

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None) -> Tensor:
        """One evaluation over the whole sequence, as training makes it; with `feature_dim`, tokens are features."""
        sequence = torch.cat([self._prefix(tokens, z_t, keep), self._suffix(x_t, t)], dim=1)
        return self.out(self.transformer(sequence, last_only=True)[:, 0])

    def encode(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None) -> KeyValueCache:
        """Keys and values of the text, which the causal mask keeps free of timestep and z_i: once a caption.

        Samples of one caption share the computation, and so do all rows whose text is dropped.
        """
        if keep is not None:  # What is dropped is not read.
            tokens = torch.where(keep.view(-1, *[1] * (tokens.ndim - 1)), tokens, 0)
            z_t = torch.where(keep[:, None], z_t, 0.0)
            rows, places = unique_rows(tokens, z_t, keep[:, None])
        else:
            rows, places = unique_rows(tokens, z_t)
        prefix = self._prefix(tokens[rows], z_t[rows], None if keep is None else keep[rows])
        cache = self.transformer.make_cache(len(rows), prefix.shape[1])
        self.transformer(prefix, cache=cache)
        return cache.select(places, prefix.shape[1] + SUFFIX)

    def step(self, x_t: Tensor, t: Tensor, cache: KeyValueCache) -> Tensor:
        """`forward`, given `encode`'s cache: three tokens instead of L + 4. The cache is left as it was."""
        return self.out(self.transformer(self._suffix(x_t, t), last_only=True, cache=cache)[:, 0])

    def given(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None) -> Denoise:
        """`step` with the keys and values of these captions."""
        cache = self.encode(tokens, z_t, keep)
        return lambda x_t, t: self.step(x_t, t, cache)
