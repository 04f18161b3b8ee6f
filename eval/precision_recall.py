"""Fidelity apart from diversity: precision and recall (2019, Kynkaanniemi et al.), density and coverage.

The latter two: 2020, Naeem et al. A set of features is taken for the union of balls around its members, each as large
as the distance to the k-th nearest other member.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.bootstrap import LEVEL, Interval, Resampler
from eval.errors import InputError

NEIGHBOURS = 3  # precision and recall, as in the paper
DENSITY_NEIGHBOURS = 5  # density and coverage, as in theirs
BLOCK = 1024


@dataclass(frozen=True)
class Manifolds:
    """What each sample and each real image says.

    Attributes:
        precise: (N,) 1 where a sample lies in a ball of the real images.
        dense: (N,) in how many of the real balls it lies, divided by k; 1 on average for real images.
        recalled: (M,) 1 where a real image lies in a ball of the samples.
        covered: (M,) 1 where the ball of a real image holds a sample.
    """

    precise: np.ndarray
    dense: np.ndarray
    recalled: np.ndarray
    covered: np.ndarray

    def intervals(self, resampler: Resampler) -> dict[str, Interval]:
        """precision, density, recall, coverage, each with a 95 % interval.

        The first two are drawn again over the captions of the samples. The last two are shares of the real images and
        have the exact (Clopper-Pearson) interval of a share, for these samples.
        """
        return {
            "precision": resampler.mean(self.precise),
            "recall": share(self.recalled),
            "density": resampler.mean(self.dense),
            "coverage": share(self.covered),
        }


def manifolds(
    features: np.ndarray, reference: np.ndarray, k: int = NEIGHBOURS, density_k: int = DENSITY_NEIGHBOURS
) -> Manifolds:
    """Compares features (N, D) of samples with those of real images (M, D).

    Raises:
        InputError: too few of either for the k-th neighbour.
    """
    needed = max(k, density_k) + 1
    for what, x in (("samples", features), ("reference images", reference)):
        if len(x) < needed:
            raise InputError(f"precision, recall, density and coverage need {needed} {what} or more, found {len(x)}")
    shift = np.asarray(reference, dtype=np.float64).mean(0)  # squares of centred features lose fewer digits
    x, y = (np.asarray(v, dtype=np.float64) - shift for v in (features, reference))
    own, real = radii(x, [k])[:, 0], radii(y, [k, density_k])
    precise, inside = np.zeros(len(x)), np.zeros(len(x))
    recalled, nearest = np.zeros(len(y)), np.full(len(y), np.inf)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        squares = squared_distances(x[rows], y)
        precise[rows] = (squares <= real[:, 0]).any(1)
        inside[rows] = (squares < real[:, 1]).sum(1)
        recalled = np.maximum(recalled, (squares <= own[rows, None]).any(0))
        nearest = np.minimum(nearest, squares.min(0))
    return Manifolds(precise, inside / density_k, recalled, (nearest < real[:, 1]).astype(float))


def radii(x: np.ndarray, neighbours: list[int]) -> np.ndarray:
    """(N, len(neighbours)) squared distance of each of x (N, D) to its k-th nearest other one."""
    out = np.empty((len(x), len(neighbours)))
    for start in range(0, len(x), BLOCK):
        squares = squared_distances(x[start : start + BLOCK], x)
        squares.partition(neighbours, axis=1)  # itself comes first, at 0
        out[start : start + BLOCK] = squares[:, neighbours]
    return out


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, M) squared Euclidean distances, at least 0."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.maximum(squares, 0, out=squares)


def share(found: np.ndarray) -> Interval:
    """The share of ones among N zeros and ones, with the exact binomial interval (Clopper-Pearson)."""
    from scipy.stats import beta

    n, hits = len(found), round(float(found.sum()))
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return Interval(hits / n, low, high)
