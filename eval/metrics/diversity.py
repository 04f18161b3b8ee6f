"""How much samples differ: those of one caption, and all together (Vendi score, 2022, Friedman and Dieng)."""

from __future__ import annotations

import numpy as np

from eval.metrics.bootstrap import Interval, Resampler, moved
from eval.metrics.frechet_interval import FEW_DRAWS

CHUNK = 4096  # features that are made float64 at a time


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


def vendi_score(features: np.ndarray, weights: np.ndarray | None = None) -> float:
    """exp of the entropy of the eigenvalues of K / N, K the cosines of all pairs of features (N, D); 1 at least.

    The eigenvalues of K / N that are not zero are those of the (D, D) mean of x x^T over unit features x.

    Args:
        features: of the samples; normalised here.
        weights: (N,) counts a sample that many times.

    Raises:
        ValueError: no samples.
    """
    if not len(features):
        raise ValueError("a Vendi score needs a sample or more")
    total, n = np.zeros((features.shape[1],) * 2), 0.0
    for start in range(0, len(features), CHUNK):
        x = np.asarray(features[start : start + CHUNK], dtype=np.float64)
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        w = np.ones(len(x)) if weights is None else np.asarray(weights[start : start + CHUNK], dtype=np.float64)
        total += (x * w[:, None]).T @ x
        n += float(w.sum())
    values = np.linalg.eigvalsh(total / n)
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def vendi_interval(features: np.ndarray, resampler: Resampler) -> Interval:
    """The score with its interval over captions, of at most 20 replicates where each is costly.

    A replicate holds fewer different captions and so scores lower; the percentiles are moved by the mean difference.
    """
    costly = len(features) * features.shape[1] ** 2 > 1e9
    few = Resampler(resampler.groups, min(resampler.draws, FEW_DRAWS) if costly else resampler.draws, resampler.seed)
    drawn = [vendi_score(features, counts[few.groups]) for counts in few.counts()]
    return moved(vendi_score(features), drawn)
