"""The Inception Score (2016, Salimans et al.): each picture should be one thing, and all together everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import Interval, Resampler, moved

BLOCK = 512  # images whose class probabilities are held at a time
SPAN = 8192  # images whose numbers of draws are


@dataclass(frozen=True)
class ClassStatistics:
    """The sums over n images from which the score follows; parts may be merged in any order.

    Attributes:
        n: number of images (or their total weight).
        probability: (C,) sum of the class probabilities.
        negative_entropy: sum over the images of sum_c p log p.
    """

    n: float
    probability: np.ndarray
    negative_entropy: float

    @classmethod
    def of(cls, logits: np.ndarray, weights: np.ndarray | None = None) -> ClassStatistics:
        """Of logits (N, C); a weight (N,) counts an image that many times."""
        probability, entropy = _classes(logits)
        w = np.ones(len(entropy)) if weights is None else np.asarray(weights, dtype=np.float64)
        return cls(float(w.sum()), w @ probability, float(w @ entropy))

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """The sums over both sets."""
        return ClassStatistics(
            self.n + other.n, self.probability + other.probability, self.negative_entropy + other.negative_entropy
        )

    @property
    def score(self) -> float:
        """exp of the mean divergence of an image's classes from all images' classes; 1 at least, C at most."""
        marginal = self.probability / self.n
        known = marginal[marginal > 0]
        return float(np.exp(self.negative_entropy / self.n - (known * np.log(known)).sum()))


def _classes(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) probabilities and (N,) sums of p log p, of logits (N, C)."""
    x = np.asarray(logits, dtype=np.float64)
    log_p = x - x.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    return p, (p * log_p).sum(1)


def inception_score(
    logits: np.ndarray,
    resampler: Resampler | None = None,
    layer: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Interval:
    """The score of logits (N, C) over all images at once, and its interval over captions.

    Differs from the usual: not a mean over ten splits, each of which is scored as if its tenth were everything.
    Blocks of images are summed for all replicates at once, so memory does not grow with the images.

    Args:
        logits: or what `layer` makes them of, which may be a memory map.
        resampler: for the interval; without it there is none (nan).
        layer: maps (n, D) to logits (n, C).
    """
    total, drawn = None, None
    for start, counts in _weights(len(logits), resampler):
        for first in range(start, start + counts.shape[1], BLOCK):
            block = logits[first : min(first + BLOCK, start + counts.shape[1])]
            p, entropy = _classes(block if layer is None else layer(block))
            weights = counts[:, first - start : first - start + len(block)].astype(np.float64)
            own = ClassStatistics(len(block), p.sum(0), float(entropy.sum()))
            total = own if total is None else total.merge(own)
            sums = weights.sum(1), weights @ p, weights @ entropy
            drawn = sums if drawn is None else tuple(a + b for a, b in zip(drawn, sums, strict=True))
    if total is None or drawn is None:
        raise ValueError("an Inception Score needs an image or more")
    if resampler is None:
        return Interval(total.score, float("nan"), float("nan"))
    replicates = [ClassStatistics(float(n), p, float(e)).score for n, p, e in zip(*drawn, strict=True)]
    return moved(total.score, replicates)


def _weights(n: int, resampler: Resampler | None) -> Iterator[tuple[int, np.ndarray]]:
    """Where each span of the n samples starts, and (draws, span) how often each replicate counts each of them.

    The replicates are drawn again for each span, which is cheaper than to keep draws x n numbers.
    """
    for start in range(0, n, SPAN):
        span = slice(start, min(start + SPAN, n))
        if resampler is None:
            yield start, np.zeros((0, span.stop - start), dtype=np.uint16)
            continue
        group = resampler.groups[span]
        counts = np.empty((resampler.draws, len(group)), dtype=np.uint16)
        for row, drawn in zip(counts, resampler.counts(), strict=True):
            row[:] = np.minimum(drawn[group], np.iinfo(np.uint16).max)
        yield start, counts


def inception_score_splits(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation of the score over consecutive splits, as published numbers are made.

    Args:
        logits: (N, C), in an order that mixes the captions.
    """
    n = len(logits)
    parts = [logits[k * n // splits : (k + 1) * n // splits] for k in range(splits)]
    scores = [ClassStatistics.of(part).score for part in parts]
    return float(np.mean(scores)), float(np.std(scores))
