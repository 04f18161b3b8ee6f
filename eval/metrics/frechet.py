"""The Frechet distance of two sets of features, each treated as a Gaussian (2017, Heusel et al., eq. 6)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eval.metrics.bootstrap import Interval

CHUNK = 4096  # features that are made float64 at a time
INCEPTION_DIM = 2048
POINTS, LEAST = 15, 5000  # sizes of the subsets of an extrapolation, and the smallest where there are many samples


class SingularCovariance(UserWarning):
    """A Frechet distance was computed from too few features."""


def singular_warning(n: float, dim: int) -> str | None:
    """A warning if n features of `dim` dimensions are too few for a covariance of full rank, else None."""
    if n > dim:
        return None
    return (
        f"n = {n:g} is not above the {dim} dimensions of the features: the covariance is singular, and the Frechet"
        " distance is biased upwards by much more than usual; take more samples or smaller features"
    )


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
        """The statistics of no features, with which streaming starts."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: np.ndarray, weights: np.ndarray | None = None) -> FeatureStatistics:
        """Of features (N, D), also memory-mapped ones; a weight (N,) counts a feature that many times."""
        total = cls.empty(features.shape[1])
        for start in range(0, len(features), CHUNK):
            part = slice(start, start + CHUNK)
            total = total.merge(cls._of_part(features[part], None if weights is None else weights[part]))
        return total

    @classmethod
    def _of_part(cls, features: np.ndarray, weights: np.ndarray | None) -> FeatureStatistics:
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

    @cached_property
    def root(self) -> np.ndarray:
        """(D, D) square root of the covariance; kept, since many sets of samples are compared with one reference."""
        return symmetric_sqrt(self.covariance)


def symmetric_sqrt(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric positive semidefinite (D, D) matrix, also a singular one."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * roots(values)) @ vectors.T


def roots(values: np.ndarray) -> np.ndarray:
    """Square roots of eigenvalues. What rounding makes of a zero counts as zero: its root would be far from small."""
    noise = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    return np.sqrt(np.where(values > noise, values, 0.0))


class FrechetDistance:
    """The distance from a fixed reference: |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2).

    The product under the root is symmetric, unlike S1 S2, so its eigenvalues are real, in singular cases as well.
    """

    def __init__(self, reference: FeatureStatistics) -> None:
        self.mean = reference.mean
        self.trace = float(np.trace(reference.covariance))
        self.root = reference.root

    def __call__(self, statistics: FeatureStatistics) -> float:
        """The distance of `statistics`; at least 0."""
        covariance = statistics.covariance
        values = np.linalg.eigvalsh(self.root @ covariance @ self.root)
        apart = self.mean - statistics.mean
        cross = roots(values).sum()
        return max(0.0, float(apart @ apart + self.trace + np.trace(covariance) - 2 * cross))


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """The Frechet distance of two sets of features; symmetric, 0 for equal mean and covariance.

    Warns:
        SingularCovariance: a set holds no more features than dimensions.
    """
    told = singular_warning(min(first.n, second.n), len(first.mean))
    if told:
        warnings.warn(told, SingularCovariance, stacklevel=2)
    return FrechetDistance(first)(second)


def frechet_infinity(features: np.ndarray, reference: np.ndarray, points: int = POINTS, seed: int = 0) -> Interval:
    """The Frechet distance extrapolated to infinitely many samples (2020, Chong and Forsyth; sizes as in dgm-eval).

    Random subsets of `points` sizes are measured, and a line is fitted to their distances against 1 / size. Its value
    at 0 is the estimate. The interval is that of the line's intercept (Student's t).

    Differs from Chong and Forsyth: subsets are drawn at random, and not by a quasi-random sequence of latents, which
    only a generator could follow.

    Args:
        features: (N, D) of samples.
        reference: (M, D) of real images.
        points: number of sizes; 3 or more.
        seed: of the subsets.

    Raises:
        ValueError: fewer than 2 x `points` samples.
    """
    from scipy.stats import linregress, t

    if len(features) < 2 * points:
        raise ValueError(f"an extrapolation over {points} sizes needs {2 * points} samples, found {len(features)}")
    distance, rng = FrechetDistance(FeatureStatistics.of(reference)), np.random.default_rng(seed)
    least = min(LEAST, max(len(features) // 10, 2))
    sizes = np.linspace(least, len(features), points).astype(int)
    found = [
        distance(FeatureStatistics.of(features[np.sort(rng.choice(len(features), n, replace=False))])) for n in sizes
    ]
    line = linregress(1 / sizes, found)
    half = float(t.ppf(0.975, points - 2)) * float(line.intercept_stderr)
    return Interval(float(line.intercept), float(line.intercept) - half, float(line.intercept) + half)
