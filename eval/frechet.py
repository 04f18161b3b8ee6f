"""The Frechet distance of two sets of features, each taken for a Gaussian (2017, Heusel et al., eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.bootstrap import Interval, Resampler


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of n features in float64; a sum over parts, so parts may be seen in any order, by any rank.

    Attributes:
        n: number of features (or their total weight).
        mean: (D,) mean.
        scatter: (D, D) sum over the features of (x - mean)(x - mean)^T.
    """

    n: float
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, dim: int) -> FeatureStatistics:
        """Of no features at all: what streaming starts with."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: np.ndarray, weights: np.ndarray | None = None) -> FeatureStatistics:
        """Of features (N, D); a weight (N,) counts a feature that many times."""
        x = np.asarray(features, dtype=np.float64)
        w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
        n = float(w.sum())
        if n == 0:
            return cls.empty(x.shape[1])
        mean = w @ x / n
        centred = x - mean
        return cls(n, mean, (centred * w[:, None]).T @ centred)

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Of both sets together (Chan et al. 1979), without the loss of digits of sums of squares."""
        n = self.n + other.n
        if n == 0:
            return self
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.n * other.n / n)
        return FeatureStatistics(n, self.mean + apart * (other.n / n), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) unbiased covariance, as numpy's `cov`; needs n of at least 2."""
        if self.n < 2:
            raise ValueError(f"a covariance needs 2 features or more, found {self.n:g}")
        return self.scatter / (self.n - 1)


def symmetric_sqrt(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric positive semidefinite (D, D) matrix, also a singular one."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


class FrechetDistance:
    """The distance from a fixed reference: |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2).

    The product under the root is symmetric, unlike S1 S2, so its eigenvalues are real, in singular cases as well.
    """

    def __init__(self, reference: FeatureStatistics) -> None:
        self.mean = reference.mean
        self.trace = float(np.trace(reference.covariance))
        self.root = symmetric_sqrt(reference.covariance)

    def __call__(self, statistics: FeatureStatistics) -> float:
        """The distance of `statistics`; at least 0."""
        covariance = statistics.covariance
        values = np.linalg.eigvalsh(self.root @ covariance @ self.root)
        apart = self.mean - statistics.mean
        cross = np.sqrt(np.clip(values, 0, None)).sum()
        return max(0.0, float(apart @ apart + self.trace + np.trace(covariance) - 2 * cross))


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """The Frechet distance of two sets of features; symmetric, 0 for equal mean and covariance."""
    return FrechetDistance(first)(second)


def frechet_interval(features: np.ndarray, reference: FeatureStatistics, resampler: Resampler) -> Interval:
    """The distance of features (N, D) from the reference, with the interval over the captions of these features."""
    distance = FrechetDistance(reference)
    value = distance(FeatureStatistics.of(features))
    return resampler.statistic(value, lambda weights: distance(FeatureStatistics.of(features, weights)))
