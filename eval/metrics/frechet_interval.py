"""The interval of a Frechet distance over captions: replicates share what does not change from one to the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval.metrics.bootstrap import LEVEL, Interval, Resampler
from eval.metrics.frechet import FeatureStatistics, FrechetDistance, roots

COSTLY = 1e9  # numbers that a replicate multiplies; above it a few replicates give the width of Student's interval
FEW_DRAWS = 20
WIDE = 256  # dimensions from which the products of all features with the reference's root are made once


def frechet_interval(features: np.ndarray, reference: FeatureStatistics, resampler: Resampler) -> Interval:
    """The distance of features (N, D) from the reference, with the interval over the captions of these features."""
    distance = FrechetDistance(reference)
    costly = few_draws(len(features), features.shape[1], resampler.draws)
    by_weights = of_weights(features, distance, costly)
    value = by_weights(np.ones(len(features)))
    if costly:
        few = Resampler(resampler.groups, FEW_DRAWS, resampler.seed)
        drawn = [by_weights(counts[few.groups]) for counts in few.counts()]
        half = student(FEW_DRAWS) * float(np.std(drawn, ddof=1))
        return Interval(value, value - half, value + half)
    return resampler.statistic(value, by_weights)


def of_weights(features: np.ndarray, distance: FrechetDistance, costly: bool) -> Callable[[np.ndarray], float]:
    """Maps weights (N,) of features (N, D) to their distance, in the way that takes least time.

    Where replicates are `costly` there may be very many features: then they stay in the file that they may lie in.
    """
    if len(features) < features.shape[1]:
        return FewFeatures(features, distance)
    if features.shape[1] >= WIDE and not costly:
        return WideFeatures(features, distance)
    return lambda weights: distance(FeatureStatistics.of(features, weights))


def few_draws(n: int, dim: int, draws: int) -> bool:
    """Whether the interval of n features (n, dim) is Student's, of `FEW_DRAWS` replicates instead of `draws`."""
    return n * dim**2 > COSTLY and draws > FEW_DRAWS


def student(draws: int) -> float:
    """Half the width of a 95 % interval in standard deviations that were estimated from this number of draws."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, draws - 1))


class RootedFeatures:
    """The distance of weighted features from a reference, with Y = X S1^1/2 made once: maps weights (N,) to it.

    With weights w of sum n, the eigenvalues of S1^1/2 S2 S1^1/2 are those of Y'^T Y' / (n - 1), where the rows of Y'
    are those of Y, centred by their weighted mean, times the root of their weight. Those of Y' Y'^T are the same and
    zeros.

    Args:
        features: (N, D) of samples.
        distance: from the reference.
    """

    def __init__(self, features: np.ndarray, distance: FrechetDistance) -> None:
        x = np.asarray(features, dtype=np.float64)
        self.shift = x.mean(0)
        self.x = x - self.shift  # products of centred features lose fewer digits
        self.distance = distance
        self.rooted, self.squares = self.x @ distance.root, (self.x**2).sum(1)

    def __call__(self, weights: np.ndarray) -> float:
        w = np.asarray(weights, dtype=np.float64)
        n, mean = w.sum(), w @ self.x / w.sum()
        drawn = np.flatnonzero(w)
        cross = roots(np.linalg.eigvalsh(self.product(w, n, drawn) / (n - 1))).sum()
        trace = (w @ self.squares - n * mean @ mean) / (n - 1)
        apart = self.distance.mean - self.shift - mean
        return max(0.0, float(apart @ apart + self.distance.trace + trace - 2 * cross))

    def product(self, w: np.ndarray, n: float, drawn: np.ndarray) -> np.ndarray:
        """A symmetric matrix with the eigenvalues of Y'^T Y' that are not zero.

        Args:
            w: (N,) weights.
            n: their sum.
            drawn: where they are not zero.
        """
        raise NotImplementedError


class FewFeatures(RootedFeatures):
    """Y' Y'^T (N, N): smaller where there are fewer features than dimensions."""

    def __init__(self, features: np.ndarray, distance: FrechetDistance) -> None:
        super().__init__(features, distance)
        self.gram = self.rooted @ self.rooted.T

    def product(self, w: np.ndarray, n: float, drawn: np.ndarray) -> np.ndarray:
        gram, row = self.gram[np.ix_(drawn, drawn)], self.gram[drawn] @ w / n
        centred = gram - row[:, None] - row[None, :] + w[drawn] @ row / n
        half = np.sqrt(w[drawn])
        scaled: np.ndarray = half[:, None] * centred * half
        return scaled


class WideFeatures(RootedFeatures):
    """Y'^T Y' (D, D): one product a replicate, of the drawn features alone, where `FrechetDistance` has three."""

    def product(self, w: np.ndarray, n: float, drawn: np.ndarray) -> np.ndarray:
        scaled = (self.rooted[drawn] - w @ self.rooted / n) * np.sqrt(w[drawn])[:, None]
        found: np.ndarray = scaled.T @ scaled
        return found
