"""How much the samples of one caption differ."""

from __future__ import annotations

import numpy as np


def within_caption_distance(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean distance of each sample's features (N, D) from those of the other samples of its caption.

    Args:
        features: (N, D).
        groups: (N,) the caption of each sample.

    Returns:
        (N,) Euclidean distances; nan for the only sample of a caption. Their mean over captions with equally many
        samples is the mean pairwise distance.
    """
    out = np.full(len(features), np.nan)
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    for members in np.split(order, starts[1:]):
        if len(members) > 1:
            x = np.asarray(features[members], dtype=np.float64)
            apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
            out[members] = apart.sum(1) / (len(members) - 1)
    return out
