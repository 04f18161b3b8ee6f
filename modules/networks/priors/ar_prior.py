"""The autoregressive prior's network: a causal Transformer over caption, z_t, z_i . z_t and the codes of z_i."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modules.networks.priors.prior import PriorNetwork
from modules.networks.stepping import Stepper, plain
from modules.networks.stepping import draw as _draw
from modules.networks.transformer import (
    FeatureEmbedding,
    KeyValueCache,
    TextEncoder,
    TokenEmbedding,
    Transformer,
    caption_embedding,
    scale_to_unit_variance,
    unique_rows,
)


class ARPriorNetwork(PriorNetwork):
    """Logits of each code of z_i from [caption tokens, z_t, dot-product token, the codes before it] (unCLIP 2.2).

    Args:
        embedding_dim: D of the CLIP embeddings.
        num_codes: kept dimensions of z_i, that is codes in a sequence, at most.
        num_buckets: values of a code.
        num_dot_buckets: values of the dot-product token.
        vocab_size, context_length: of the tokeniser.
        width, depth, heads: of the Transformer.
        dropout: on its residual branches.
        checkpointing: recompute the Transformers' activations in the backward pass.
        text_width, text_depth, text_heads: of a Transformer of its own that encodes the caption first, as Table 3 has
            it; without (null) the caption's embedded tokens are the prefix, encoded by the causal Transformer itself.
        feature_dim: F of a frozen CLIP's features of every caption token, which then stand where the tokens' own
            embeddings do (batches with `token_features`); not together with `text_width`.

    Raises:
        ValueError: both `text_width` and `feature_dim`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_codes: int,
        num_buckets: int,
        num_dot_buckets: int,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        checkpointing: bool = False,
        text_width: int | None = None,
        text_depth: int = 0,
        text_heads: int = 1,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        if text_width is not None and feature_dim is not None:
            raise ValueError("text_width and feature_dim are two ways to encode the caption: choose one")
        self.embedding_dim, self.feature_dim = embedding_dim, feature_dim
        self.num_codes, self.num_buckets, self.num_dot_buckets = num_codes, num_buckets, num_dot_buckets
        self.tokens: TokenEmbedding | TextEncoder | FeatureEmbedding
        if text_width is None:
            self.tokens = caption_embedding(vocab_size, context_length, width, feature_dim)
        else:
            sizes = (vocab_size, context_length, text_width, text_depth, text_heads)
            self.tokens = TextEncoder(*sizes, dropout=dropout, checkpointing=checkpointing)
            self.tokens_out = nn.Linear(text_width, width)
        self.z_t = nn.Linear(embedding_dim, width)
        self.dot = nn.Embedding(num_dot_buckets, width)
        self.codes = nn.Embedding(num_buckets, width)
        self.code_positions = nn.Parameter(torch.randn(num_codes + 2, width) * 0.05)
        self.no_token = nn.Parameter(torch.randn(width) * 0.05)
        self.no_z_t = nn.Parameter(torch.randn(width) * 0.05)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout, checkpointing=checkpointing)
        self.out = nn.Linear(width, num_buckets)
        for table in (self.dot, self.codes):
            nn.init.normal_(table.weight, std=0.05)

    def _text(self, tokens: Tensor, z_t: Tensor, keep: Tensor | None) -> Tensor:
        """(B, L + 1, width): the caption and z_t, or their learned stand-ins."""
        words, text = self.tokens(tokens), self.z_t(scale_to_unit_variance(z_t))
        dropped: Tensor = self.no_token
        if isinstance(self.tokens, TextEncoder):
            words = self.tokens_out(words)
        else:
            dropped = dropped + self.tokens.positions
        if keep is not None:
            words = torch.where(keep[:, None, None], words, dropped)
            text = torch.where(keep[:, None], text, self.no_z_t)
        return torch.cat([words, (text + self.code_positions[0])[:, None]], dim=1)

    def _dot(self, dot: Tensor) -> Tensor:
        """(B, 1, width): the dot-product token, which stays when the text is dropped."""
        return (self.dot(dot) + self.code_positions[1])[:, None]

    def forward(self, tokens: Tensor, z_t: Tensor, dot: Tensor, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits of all codes at once, as training does it.

        Args:
            tokens: (B, L) caption tokens; with `feature_dim`, their (B, L, F) features.
            z_t: (B, D) CLIP text embeddings of unit norm.
            dot: (B,) bucket of z_i . z_t.
            codes: (B, K) buckets of z_i, K being num_codes or fewer; the last one is not read.
            keep: (B,) bool, False where the text is dropped; the dot-product token stays.

        Returns:
            (B, K, num_buckets).
        """
        count = codes.shape[1]
        before = self.codes(codes[:, :-1]) + self.code_positions[2 : count + 1]
        sequence = torch.cat([self._text(tokens, z_t, keep), self._dot(dot), before], dim=1)
        return self.out(self.transformer(sequence)[:, -count:])

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        z_t: Tensor,
        dot: Tensor,
        generators: list[torch.Generator],
        *,
        guidance: Callable[[Tensor], Tensor] | None = None,
        negative: tuple[Tensor, Tensor] | None = None,
        temperature: float = 1.0,
        length: int | None = None,
    ) -> Tensor:
        """Draw codes one after another, with a preallocated key/value cache.

        The caption's and z_t's keys and values are computed once for all samples of a caption; guidance is one batch.

        Args:
            tokens, z_t, dot: as in `forward`.
            generators: one for each sequence, on the CPU.
            guidance: (2B, V) logits, [with text, without], -> (B, V); None draws with text alone.
            negative: tokens and z_t that stand in the half without text; None for their learned stand-ins.
            temperature: divides the logits; 0 takes the most likely code.
            length: codes to draw, num_codes or fewer; all by default.

        Returns:
            (B, length) int64.
        """
        length = self.num_codes if length is None else length
        guided = guidance is not None
        if guided and negative is not None:
            cache = self._encode(torch.cat([tokens, negative[0]]), torch.cat([z_t, negative[1]]), guided=False)
        else:
            cache = self._encode(tokens, z_t, guided)
        transformer: Any = self.transformer
        step = Stepper(transformer, cache) if plain(transformer) else partial(transformer, cache=cache)
        x = self._dot(torch.cat([dot, dot]) if guided else dot)
        drawn: list[Tensor] = []
        for k in range(length):
            logits = self.out(step(x)[:, -1]).float()
            if guidance is not None:
                logits = guidance(logits)
            drawn.append(_draw(logits, generators, temperature))
            code = torch.cat([drawn[-1], drawn[-1]]) if guided else drawn[-1]
            if k < length - 1:
                x = (self.codes(code) + self.code_positions[2 + k])[:, None]
        return torch.stack(drawn, dim=1)

    def _encode(self, tokens: Tensor, z_t: Tensor, guided: bool) -> KeyValueCache:
        """The text's keys and values, for B sequences; with guidance for 2 B, the latter half without text."""
        rows, places = unique_rows(tokens, z_t)
        keep = None
        if guided:  # Without text all are the same: one row more.
            places = torch.cat([places, torch.full_like(places, len(rows))])
            rows = torch.cat([rows, rows[:1]])
            keep = torch.arange(len(rows), device=tokens.device) < len(rows) - 1
        prefix = self._text(tokens[rows], z_t[rows], keep)
        cache = self.transformer.make_cache(len(rows), prefix.shape[1])
        self.transformer(prefix, cache=cache)
        return cache.select(places, prefix.shape[1] + self.num_codes)

    def encode(self, tokens: Tensor, z_t: Tensor) -> KeyValueCache:
        """The text's keys and values, with room for all codes: what `sample` starts from, without guidance."""
        return self._encode(tokens, z_t, guided=False)
