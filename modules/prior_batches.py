"""What the three priors have in common: where their embeddings come from, and how they are judged in validation."""

from __future__ import annotations

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
