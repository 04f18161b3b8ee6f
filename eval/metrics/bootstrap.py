"""Intervals by the bootstrap over captions. Samples of one caption are alike, so whole captions are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """A value and the limits of its 95 % interval; all nan where nothing was measured."""

    value: float
    low: float
    high: float


class Resampler:
    """Draws captions with replacement, the same ones for every quantity and every condition on these captions.

    Args:
        groups: (N,) the caption of each sample.
        draws: number of bootstrap replicates.
        seed: of the draws.
    """

    def __init__(self, groups: np.ndarray, draws: int, seed: int) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, found {draws}")
        self.names, self.groups = np.unique(groups, return_inverse=True)
        self.draws = draws
        self.seed = seed

    def counts(self) -> Iterator[np.ndarray]:
        """For each replicate (captions,) int64: how often each caption was drawn."""
        rng = np.random.default_rng(self.seed)
        n = len(self.names)
        for _ in range(self.draws):
            yield np.bincount(rng.integers(n, size=n), minlength=n)

    def mean(self, values: np.ndarray) -> Interval:
        """The mean over the samples where `values` (N,) is not nan, with its percentile interval."""
        known = ~np.isnan(values)
        if not known.any():
            return Interval(float("nan"), float("nan"), float("nan"))
        n = len(self.names)
        sums = np.bincount(self.groups[known], values[known], minlength=n)
        sizes = np.bincount(self.groups[known], minlength=n)
        drawn = [(counts @ sums, counts @ sizes) for counts in self.counts()]
        means = np.array([total / size for total, size in drawn if size > 0])
        return Interval(float(values[known].mean()), *percentiles(means))

    def share(self, values: np.ndarray) -> Interval:
        """`mean` of values in [0, 1], such as zeros and ones.

        Where all captions have the same share, as when nothing is right, all replicates agree and the percentiles
        have no width. Then the interval is the exact one of as many zeros and ones as there are captions.
        """
        known = ~np.isnan(values)
        found = self.mean(values)
        sums, sizes = (np.bincount(self.groups[known], w) for w in (values[known], None))
        shares = sums[sizes > 0] / sizes[sizes > 0]
        alike = len(shares) > 0 and np.ptp(shares) == 0
        return exact(found.value, len(shares)) if alike else found

    def statistic(self, value: float, of_weights: Callable[[np.ndarray], float]) -> Interval:
        """A statistic that is biased upwards at small n, such as a Frechet distance, with its interval.

        A replicate holds fewer different captions than the sample, so its bias is larger; the percentiles are moved
        down by the mean excess of the replicates over `value`. The interval is one for the expected value at this n.

        Args:
            value: the statistic of the sample itself.
            of_weights: maps (N,) weights, the number of times that each sample was drawn, to the statistic.
        """
        return moved(value, [of_weights(counts[self.groups]) for counts in self.counts()])


def moved(value: float, replicates: Sequence[float]) -> Interval:
    """`Resampler.statistic` of replicates that are there already."""
    drawn = np.array(replicates)
    return Interval(value, *percentiles(drawn - (drawn.mean() - value)))


def exact(share: float, n: float) -> Interval:
    """A share of n zeros and ones, with the exact binomial interval (Clopper-Pearson); n need not be whole."""
    from scipy.stats import beta

    tail, hits = (1 - LEVEL) / 2, share * n
    low = float(beta.ppf(tail, hits, n - hits + 1)) if share > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if share < 1 else 1.0
    return Interval(share, low, high)


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """Limits that hold the middle 95 % of the replicates."""
    low, high = np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def as_json(interval: Interval | None) -> dict[str, float] | None:
    """{"value", "low", "high"}, or None where nothing was measured."""
    if interval is None or np.isnan(interval.value):
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}
