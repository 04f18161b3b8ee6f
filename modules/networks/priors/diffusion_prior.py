"""The diffusion prior's network: a causal Transformer over caption, z_t, timestep, noised z_i (unCLIP, 2.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.blocks import TimeEmbedding
from modules.networks.frozen_text import EmptyCaption
from modules.networks.priors.prior import Denoise, DenoisingPriorNetwork
from modules.networks.priors.prior_conditioning import PriorConditioning, Standardisation
from modules.networks.transformer import (
    KeyValueCache,
    Transformer,
    caption_embedding,
    scale_to_unit_variance,
    unique_rows,
)

PAPER = PriorConditioning()
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
        conditioning: how captions and embeddings are taken; by default the paper's way.
    """

    timestep: ClassVar[bool] = True
    """Whether the sequence has a timestep; without one the network is evaluated once, and nothing is ever dropped."""

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
        conditioning: PriorConditioning = PAPER,
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.embedding_dim, self.feature_dim = embedding_dim, feature_dim
        self.tokens = caption_embedding(vocab_size, context_length, width, feature_dim)
        self.z_t = nn.Linear(embedding_dim, width)
        self.suffix = SUFFIX if self.timestep else SUFFIX - 1
        if self.timestep:
            self.time = TimeEmbedding(width, width)
        self.z_i = nn.Linear(embedding_dim, width)
        self.empty: EmptyCaption | None = None
        # Learned stand-ins for a dropped caption and z_t, and for the query.
        if self.timestep and conditioning.null == "learned":
            self.no_token = nn.Parameter(torch.randn(width) * 0.05)
            self.no_z_t = nn.Parameter(torch.randn(width) * 0.05)
        elif self.timestep:
            shape = (context_length,) if feature_dim is None else (context_length, feature_dim)
            self.empty = EmptyCaption(shape, embedding_dim)
        self.standardisation = Standardisation(embedding_dim) if conditioning.standardise else None
        self.query = nn.Parameter(torch.randn(width) * 0.05)
        self.positions = nn.Parameter(torch.randn(1 + self.suffix, width) * 0.05)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout, checkpointing=checkpointing)
        self.out = nn.Linear(width, embedding_dim)

    def _prefix(
        self, tokens: Tensor, z_t: Tensor, keep: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L + 1, width), and which of these positions are looked at: (B, L + 1) bool, None for all."""
        if self.empty is not None and keep is not None:
            whole = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
            tokens, z_t, mask = self.empty.instead(tokens, z_t, whole, keep)
        words, text = self.tokens(tokens), self.z_t(z_t if self.conditioning.raw else scale_to_unit_variance(z_t))
        if self.empty is None and keep is not None:
            words = torch.where(keep[:, None, None], words, self.no_token + self.tokens.positions)
            text = torch.where(keep[:, None], text, self.no_z_t)
        prefix = torch.cat([words, (text + self.positions[0])[:, None]], dim=1)
        if mask is None or not self.conditioning.padding_mask:
            return prefix, None
        if self.empty is None and keep is not None:  # The learned stand-ins of a dropped caption are all looked at.
            mask = mask | ~keep[:, None]
        return prefix, F.pad(mask, (0, 1), value=True)

    def _suffix(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, 3, width)."""
        parts = [self.time(t), self.z_i(x_t), self.query.expand(len(x_t), -1)]
        return torch.stack(parts, dim=1) + self.positions[1:]

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        z_t: Tensor,
        keep: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """One evaluation over the whole sequence, as training makes it; with `feature_dim`, tokens are features."""
        prefix, seen = self._prefix(tokens, z_t, keep, mask)
        sequence = torch.cat([prefix, self._suffix(x_t, t)], dim=1)
        seen = None if seen is None else F.pad(seen, (0, self.suffix), value=True)
        return self.out(self.transformer(sequence, last_only=True, mask=seen)[:, 0])

    def encode(
        self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None, mask: Tensor | None = None
    ) -> KeyValueCache:
        """Keys and values of the text, which the causal mask keeps free of timestep and z_i: once a caption.

        Samples of one caption share the computation, and so do all rows whose text is dropped.
        """
        if keep is not None:  # What is dropped is not read.
            tokens = torch.where(keep.view(-1, *[1] * (tokens.ndim - 1)), tokens, 0)
            z_t = torch.where(keep[:, None], z_t, 0.0)
            mask = None if mask is None else mask & keep[:, None]
        others = [x for x in (None if keep is None else keep[:, None], mask) if x is not None]
        rows, places = unique_rows(tokens, z_t, *others)
        prefix, seen = self._prefix(tokens[rows], z_t[rows], *(None if x is None else x[rows] for x in (keep, mask)))
        cache = self.transformer.make_cache(len(rows), prefix.shape[1], seen)
        self.transformer(prefix, cache=cache)
        return cache.select(places, prefix.shape[1] + self.suffix)

    def step(self, x_t: Tensor, t: Tensor, cache: KeyValueCache) -> Tensor:
        """`forward`, given `encode`'s cache: three tokens instead of L + 4. The cache is left as it was."""
        return self.out(self.transformer(self._suffix(x_t, t), last_only=True, cache=cache)[:, 0])

    def given(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Denoise:
        """`step` with the keys and values of these captions."""
        cache = self.encode(tokens, z_t, keep, mask)
        return lambda x_t, t: self.step(x_t, t, cache)
