"""What the three priors have in common: where their embeddings come from, and how they are judged in validation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.errors import InputError


def embeddings_of(batch: EmbeddingBatch | ImageTextBatch) -> EmbeddingBatch:
    """The cached embeddings of a batch.

    Raises:
        InputError: for a batch without.
    """
    embeddings = batch if isinstance(batch, EmbeddingBatch) else batch.embeddings
    if embeddings is None:
        raise InputError(
            "the batches hold no CLIP embeddings: make them with `unclip embed` and set "
            "data.init_args.embeddings to the folder"
        )
    return embeddings


def text_of(network: Any, rows: EmbeddingBatch) -> Tensor:
    """What a prior's network reads of the captions: their (B, L) tokens, or the (B, L, F) features of a frozen CLIP.

    Raises:
        InputError: it wants features, and the batch has none.
    """
    if getattr(network, "feature_dim", None) is None:
        return rows.tokens
    if rows.features is None:
        raise InputError(
            "model.network.feature_dim needs the CLIP's features of every token, and the batches hold none: make them "
            "with `unclip embed --token-features` and set data.init_args.token_features: true"
        )
    return rows.features


def caption_features(clip: Any, tokens: Tensor) -> Tensor:
    """(B, L) tokens -> (B, L, F) a frozen CLIP's features of them; 0 for padding, which its CLIP never learnt from."""
    return clip.encode_tokens(tokens) * (tokens != 0)[..., None]


def cosines(z_i: Tensor, batch: EmbeddingBatch) -> dict[str, Tensor]:
    """How near drawn embeddings lie to the truth: means over the batch.

    Keys: cosine to the true z_i, cosine to z_t, and, as a floor, the cosine of z_t itself to the true z_i.
    """
    return {
        "cosine_to_z_i": (z_i * batch.z_i).sum(dim=1).mean(),
        "cosine_to_z_t": (z_i * batch.z_t).sum(dim=1).mean(),
        "cosine_of_z_t": (batch.z_t * batch.z_i).sum(dim=1).mean(),
    }


def per_sample_generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """CPU generators seeded by (seed, position): validation draws the same noise at every step of training."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + k) for k in range(count)]
