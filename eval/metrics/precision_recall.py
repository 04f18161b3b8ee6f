"""Fidelity apart from diversity: precision and recall (2019, Kynkaanniemi et al.), density and coverage.

The latter two: 2020, Naeem et al. A set of features is taken for the union of balls around its members, each as large
as the distance to the k-th nearest other member. Pairs are taken block by block, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eval.errors import InputError
from eval.metrics.bootstrap import LEVEL, Interval, Resampler, exact

NEIGHBOURS = 3  # precision and recall, as in the paper
DENSITY_NEIGHBOURS = 5  # density and coverage, as in theirs
BLOCK = 1024
PARTS = 20  # of the captions, for the jackknife of recall and coverage
RECALL_INTERVAL = "over captions (jackknife of 20 parts) and real images (binomial)"


@dataclass(frozen=True)
class Manifolds:
    """What each sample and each real image says.

    Attributes:
        precise: (N,) 1 where a sample lies in a ball of the real images.
        dense: (N,) in how many of the real balls it lies, divided by k; 1 on average for real images.
        recalled: (M,) 1 where a real image lies in a ball of the samples.
        covered: (M,) 1 where the ball of a real image holds a sample.
        recall_without: (P,) recall by the samples without those of each part of the captions.
        coverage_without: (P,) coverage likewise.
        captions: how many there are; 1 at least.
    """

    precise: np.ndarray
    dense: np.ndarray
    recalled: np.ndarray
    covered: np.ndarray
    recall_without: np.ndarray
    coverage_without: np.ndarray
    captions: int

    def intervals(self, resampler: Resampler) -> dict[str, Interval]:
        """precision, density, recall, coverage, each with a 95 % interval.

        The first two are means over samples: captions are drawn again, for these real images. The last two are shares
        of the real images that depend on all samples together: see `share_over_samples`.
        """
        return {
            "precision": resampler.share(self.precise),
            "recall": share_over_samples(self.recalled, self.recall_without, self.captions),
            "density": resampler.mean(self.dense),
            "coverage": share_over_samples(self.covered, self.coverage_without, self.captions),
        }


def manifolds(
    features: np.ndarray,
    reference: np.ndarray,
    k: int = NEIGHBOURS,
    density_k: int = DENSITY_NEIGHBOURS,
    captions: np.ndarray | None = None,
) -> Manifolds:
    """Compares features (N, D) of samples with those of real images (M, D).

    Args:
        features, reference: of samples and real images.
        k: neighbours for precision and recall.
        density_k: neighbours for density and coverage.
        captions: (N,) the caption of each sample; without it, each has one of its own.

    Raises:
        InputError: too few of either for the k-th neighbour.
    """
    needed = max(k, density_k) + 1
    for what, x in (("samples", features), ("reference images", reference)):
        if len(x) < needed:
            raise InputError(f"precision, recall, density and coverage need {needed} {what} or more, found {len(x)}")
    shift = np.mean(reference, axis=0, dtype=np.float64)  # squares of centred features lose fewer digits
    member, told = parts_of(np.arange(len(features)) if captions is None else captions)
    own, grown = radii_without(features, k, member, shift)
    real = radii(reference, [k, density_k], shift)
    precise, inside = np.zeros(len(features)), np.zeros(len(features))
    recalls, covers, grows = (np.zeros((len(reference), member.shape[1]), dtype=np.float32) for _ in range(3))
    for rows, x in blocks(features, shift):
        for columns, y in blocks(reference, shift):
            squares = squared_distances(x, y)
            precise[rows] = np.maximum(precise[rows], (squares <= real[columns, 0]).any(1))
            holds = squares < real[columns, 1]
            inside[rows] += holds.sum(1)
            covers[columns] += holds.T @ member[rows]
            recalls[columns] += (squares <= own[rows, None]).T @ member[rows]
            for part, radius in enumerate(grown[rows].T):
                larger = radius > own[rows]
                grows[columns, part] += (squares[larger] <= radius[larger, None]).any(0)
    return Manifolds(
        precise,
        inside / density_k,
        recalls.any(1).astype(float),
        covers.any(1).astype(float),
        ((recalls.sum(1, keepdims=True) > recalls) | (grows > 0)).mean(0),
        (covers.sum(1, keepdims=True) > covers).mean(0),
        told,
    )


def parts_of(captions: np.ndarray) -> tuple[np.ndarray, int]:
    """(N, P) 1 where a sample belongs to a part, P = 20 parts of the captions, equally many and drawn at random.

    Returns:
        Also the number of captions; where there are fewer than 20, each is a part.
    """
    names, caption = np.unique(captions, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    parts = min(PARTS, len(names))
    return np.eye(parts, dtype=np.float32)[order[caption] % parts], len(names)


def radii(x: np.ndarray, neighbours: list[int], shift: np.ndarray | float = 0.0) -> np.ndarray:
    """(N, len(neighbours)) squared distance of each of x (N, D) to its k-th nearest other one."""
    out = np.empty((len(x), len(neighbours)))
    few = max(neighbours) + 1  # itself comes first, at 0
    for rows, block in blocks(x, shift):
        nearest = np.empty((len(block), 0))
        for _, other in blocks(x, shift):
            nearest = _smallest(np.concatenate([nearest, squared_distances(block, other)], axis=1), few)
        out[rows] = np.sort(nearest, axis=1)[:, neighbours]
    return out


def radii_without(
    x: np.ndarray, k: int, member: np.ndarray, shift: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """`radii` of x (N, D) for one k, and what they grow to without each part: (N,), (N, P).

    A member of the part that is left out has -1 there; inf stands where fewer than k others are left.
    """
    whole, grown = np.empty(len(x)), np.empty(member.shape)
    part = member.argmax(1)
    for rows, block in blocks(x, shift):
        nearest = np.full((member.shape[1], len(block), k + 1), np.inf)  # of each part: itself is among its own
        for columns, other in blocks(x, shift):
            squares = squared_distances(block, other)
            for p in range(len(nearest)):
                found = squares[:, part[columns] == p]
                nearest[p] = _smallest(np.concatenate([nearest[p], found], axis=1), k + 1)
        whole[rows] = _smallest(np.concatenate(list(nearest), axis=1), k + 1).max(1)
        for p in range(len(nearest)):
            others = [nearest[q] for q in range(len(nearest)) if q != p] or [np.full((len(block), k + 1), np.inf)]
            grown[rows, p] = _smallest(np.concatenate(others, axis=1), k + 1).max(1)
    return whole, np.where(member > 0, -1.0, grown)


def _smallest(x: np.ndarray, n: int) -> np.ndarray:
    """The n smallest of each row, or all where there are fewer, in no order."""
    return np.partition(x, min(n, x.shape[1]) - 1, axis=1)[:, :n]


def blocks(x: np.ndarray, shift: np.ndarray | float) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of x (N, D), which may be a memory map, as float64 and moved by -shift; with the rows that they are."""
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, np.asarray(x[rows], dtype=np.float64) - shift


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, M) squared Euclidean distances, at least 0."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.maximum(squares, 0, out=squares)


def share_over_samples(found: np.ndarray, without: np.ndarray, captions: int) -> Interval:
    """A share of M real images that a set of samples decides, with the interval of its expected value.

    The expectation is over other samples of as many other captions and over other real images. The variance is the sum
    of both: the delete-a-group jackknife over parts of the captions, and the binomial one of M images. A share of that
    variance is worth p (1 - p) / variance independent images, and has their Clopper-Pearson interval (1998, Korn and
    Graubard), with Student's quantile for the P - 1 degrees of freedom of the jackknife.

    Where all or none are found the jackknife sees nothing: then no more images count than there are captions.

    Args:
        found: (M,) zeros and ones.
        without: (P,) the share without each part of the captions.
        captions: their number.
    """
    from scipy.stats import norm, t

    n, parts, p = len(found), len(without), float(found.mean())
    if p in (0.0, 1.0) or parts < 2:
        return exact(p, min(n, captions))
    jackknife = (parts - 1) * float(np.var(without))
    wider = float(t.ppf((1 + LEVEL) / 2, parts - 1) / norm.ppf((1 + LEVEL) / 2)) ** 2
    return exact(p, p * (1 - p) / (wider * jackknife + p * (1 - p) / n))
