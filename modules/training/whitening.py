"""Fitting the whitening of z_i to a training split, for stages whose network has one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.batches import embeddings_of
from modules.networks.embedding_pathway import Whitening
from modules.training.stage import Stage

WHITENING_SAMPLES = 65_536


def fit_whitenings(stage: Stage[Any], embedding: str = "z_i") -> None:
    """Fit every whitening of a stage that begins, the trained network's and the average's.

    A resumed run has them already, and so has one that starts from other weights, which were trained behind them.

    Args:
        stage: what holds them; no data are read if it holds none.
        embedding: which of CLIP's two, "z_i" or "z_t".
    """
    whitenings = [module for module in stage.modules() if isinstance(module, Whitening)]
    given = any("whitening." in name for name in stage.initial)
    if whitenings and stage.begins and not given:
        z = spread_embeddings(stage.trainer.datamodule.dataset("train"), embedding)  # type: ignore[attr-defined]
        for whitening in whitenings:
            whitening.fit(z.to(stage.device))


def spread_embeddings(data: Any, embedding: str) -> Tensor:
    """(N, D): up to WHITENING_SAMPLES embeddings, spread over the split; the same on every rank."""
    rows = getattr(data, "embeddings", None) or data  # Without the pictures, where the data allow it.
    count = min(WHITENING_SAMPLES, len(data))
    places = [k * len(data) // count for k in range(count)]
    batches = (rows.__getitems__(places[start : start + 1024]) for start in range(0, count, 1024))
    return torch.cat([getattr(embeddings_of(batch), embedding) for batch in batches])
