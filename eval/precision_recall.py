"""Fidelity apart from diversity: precision and recall (2019, Kynkaanniemi et al.), density and coverage.

The latter two: 2020, Naeem et al. A set of features is taken for the union of balls around its members, each as large
as the distance to the k-th nearest other member. Pairs are taken block by block, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    shift = np.mean(reference, axis=0, dtype=np.float64)  # squares of centred features lose fewer digits
    own, real = radii(features, [k], shift)[:, 0], radii(reference, [k, density_k], shift)
    precise, inside = np.zeros(len(features)), np.zeros(len(features))
    recalled, nearest = np.zeros(len(reference)), np.full(len(reference), np.inf)
    for rows, x in blocks(features, shift):
        for columns, y in blocks(reference, shift):
            squares = squared_distances(x, y)
            precise[rows] = np.maximum(precise[rows], (squares <= real[columns, 0]).any(1))
            inside[rows] += (squares < real[columns, 1]).sum(1)
            recalled[columns] = np.maximum(recalled[columns], (squares <= own[rows, None]).any(0))
            nearest[columns] = np.minimum(nearest[columns], squares.min(0))
    return Manifolds(precise, inside / density_k, recalled, (nearest < real[:, 1]).astype(float))


def radii(x: np.ndarray, neighbours: list[int], shift: np.ndarray | float = 0.0) -> np.ndarray:
    """(N, len(neighbours)) squared distance of each of x (N, D) to its k-th nearest other one."""
    out = np.empty((len(x), len(neighbours)))
    few = max(neighbours) + 1  # itself comes first, at 0
    for rows, block in blocks(x, shift):
        nearest = np.empty((len(block), 0))
        for _, other in blocks(x, shift):
            nearest = np.concatenate([nearest, squared_distances(block, other)], axis=1)
            nearest = np.partition(nearest, min(few, nearest.shape[1]) - 1, axis=1)[:, :few]
        out[rows] = np.sort(nearest, axis=1)[:, neighbours]
    return out


def blocks(x: np.ndarray, shift: np.ndarray | float) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of x (N, D), which may be a memory map, as float64 and moved by -shift; with the rows that they are."""
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, np.asarray(x[rows], dtype=np.float64) - shift


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
