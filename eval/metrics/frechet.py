"""The Frechet distance of two sets of features, each taken for a Gaussian (2017, Heusel et al., eq. 6)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import LEVEL, Interval, Resampler

CHUNK = 4096  # features that are made float64 at a time
COSTLY = 1e9  # numbers that a replicate multiplies; above it a few replicates give the width of Student's interval
FEW_DRAWS = 20
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


def symmetric_sqrt(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric positive semidefinite (D, D) matrix, also a singular one."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * _roots(values)) @ vectors.T


def _roots(values: np.ndarray) -> np.ndarray:
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
        self.root = symmetric_sqrt(reference.covariance)

    def __call__(self, statistics: FeatureStatistics) -> float:
        """The distance of `statistics`; at least 0."""
        covariance = statistics.covariance
        values = np.linalg.eigvalsh(self.root @ covariance @ self.root)
        apart = self.mean - statistics.mean
        cross = _roots(values).sum()
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


def frechet_interval(features: np.ndarray, reference: FeatureStatistics, resampler: Resampler) -> Interval:
    """The distance of features (N, D) from the reference, with the interval over the captions of these features."""
    distance = FrechetDistance(reference)
    value = distance(FeatureStatistics.of(features))
    if few_draws(len(features), features.shape[1], resampler.draws):
        few = Resampler(resampler.groups, FEW_DRAWS, resampler.seed)
        drawn = [distance(FeatureStatistics.of(features, counts[few.groups])) for counts in few.counts()]
        half = student(FEW_DRAWS) * float(np.std(drawn, ddof=1))
        return Interval(value, value - half, value + half)
    if len(features) < features.shape[1]:
        return resampler.statistic(value, _FewFeatures(features, distance))
    return resampler.statistic(value, lambda weights: distance(FeatureStatistics.of(features, weights)))


def few_draws(n: int, dim: int, draws: int) -> bool:
    """Whether the interval of n features (n, dim) is Student's, of `FEW_DRAWS` replicates instead of `draws`."""
    return n * dim**2 > COSTLY and draws > FEW_DRAWS


def student(draws: int) -> float:
    """Half the width of a 95 % interval in standard deviations that were estimated from this number of draws."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, draws - 1))


class _FewFeatures:
    """The distance of weighted features, by their Gram matrix: exact, and faster where there are fewer than dimensions.

    With Y = X S1^1/2, the eigenvalues of S1^1/2 S2 S1^1/2 that are not zero are those of the N x N matrix of the
    products of the rows of Y, centred by the weighted mean.
    """

    def __init__(self, features: np.ndarray, distance: FrechetDistance) -> None:
        x = np.asarray(features, dtype=np.float64)
        self.shift = x.mean(0)
        self.x = x - self.shift  # products of centred features lose fewer digits
        self.distance = distance
        rooted = self.x @ distance.root
        self.gram, self.squares = rooted @ rooted.T, (self.x**2).sum(1)

    def __call__(self, weights: np.ndarray) -> float:
        w = np.asarray(weights, dtype=np.float64)
        n, mean = w.sum(), w @ self.x / w.sum()
        drawn = np.flatnonzero(w)
        gram, row = self.gram[np.ix_(drawn, drawn)], self.gram[drawn] @ w / n
        centred = gram - row[:, None] - row[None, :] + w[drawn] @ row / n
        half = np.sqrt(w[drawn])
        values = np.linalg.eigvalsh(half[:, None] * centred * half / (n - 1))
        trace = (w @ self.squares - n * mean @ mean) / (n - 1)
        apart = self.distance.mean - self.shift - mean
        cross = _roots(values).sum()
        return max(0.0, float(apart @ apart + self.distance.trace + trace - 2 * cross))


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
