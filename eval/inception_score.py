"""The Inception Score (2016, Salimans et al.): each picture should be one thing, and all together everything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.bootstrap import Interval, Resampler


@dataclass(frozen=True)
class ClassStatistics:
    """What the score needs of n images, as sums: parts may be merged in any order.

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
        """Of both sets together."""
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


def inception_score(logits: np.ndarray, resampler: Resampler | None = None) -> Interval:
    """The score of logits (N, C) over all images at once, and its interval over captions.

    Differs from the usual: not a mean over ten splits, each of which is scored as if its tenth were everything.
    """
    value = ClassStatistics.of(logits).score
    if resampler is None:
        return Interval(value, float("nan"), float("nan"))
    probability, entropy = _classes(logits)

    def drawn(weights: np.ndarray) -> float:
        return ClassStatistics(float(weights.sum()), weights @ probability, float(weights @ entropy)).score

    return resampler.statistic(value, drawn)


def inception_score_splits(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation of the score over consecutive splits, as published numbers are made.

    Args:
        logits: (N, C), in an order that mixes the captions.
    """
    n = len(logits)
    parts = [logits[k * n // splits : (k + 1) * n // splits] for k in range(splits)]
    scores = [ClassStatistics.of(part).score for part in parts]
    return float(np.mean(scores)), float(np.std(scores))
