"""`python -m benchmarks.statistics.coverage`: how often the 95 % intervals of the evaluation hold the truth.

Shares: captions draw their chance of being right from a beta distribution, so that samples of one caption agree by a
correlation, and samples are drawn from it. Frechet distances: Gaussian features against their own distribution, with
the intervals of few draws. Ends with exit code 1 where an interval of today's rules covers less than asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from eval.metrics import frechet_interval as intervals
from eval.metrics.bootstrap import Interval, Resampler, clustered
from eval.metrics.frechet import FeatureStatistics

LEAST = 0.94
SHARES = (0.5, 0.9, 0.97, 0.99)
CORRELATIONS = (0.0, 0.3, 0.6, 1.0)
CAPTIONS = ((256, 2), (72, 1), (50, 2), (25, 4))
NORMAL = 1.959964


class Covered(NamedTuple):
    """One line of the table.

    Attributes:
        case: what was simulated.
        rule: how the interval was made.
        coverage: share of the intervals that hold the true value.
        width: their mean width.
    """

    case: str
    rule: str
    coverage: float
    width: float


def correct(captions: int, samples: int, share: float, correlation: float, rng: np.random.Generator) -> np.ndarray:
    """(captions,) how many of each caption's samples are right.

    Args:
        captions, samples: how many, and of each.
        share: expected share of right samples.
        correlation: of two samples of one caption, 0 to 1.
        rng: of the draw.
    """
    if correlation in (0.0, 1.0):
        chance = np.full(captions, share) if correlation == 0 else (rng.random(captions) < share).astype(float)
    else:
        scale = 1 / correlation - 1
        chance = rng.beta(share * scale, (1 - share) * scale, captions)
    return rng.binomial(samples, chance)


def of_shares(trials: int, percentiles: bool, seed: int = 0) -> Iterator[Covered]:
    """Coverage of today's interval of a share, and of the bootstrap's percentiles."""
    for captions, samples in CAPTIONS:
        for share in SHARES:
            for correlation in CORRELATIONS if samples > 1 else (0.0,):
                rng = np.random.default_rng(seed)
                drawn = [correct(captions, samples, share, correlation, rng) for _ in range(trials)]
                sizes = np.full(captions, samples)
                case = f"{captions} captions x {samples}, share {share:g}, correlation {correlation:g}"
                yield counted(case, "Korn and Graubard", [clustered(hits, sizes) for hits in drawn], share)
                if percentiles:
                    yield counted(case, "percentiles", [_percentiles(hits, samples) for hits in drawn[:300]], share)


def _percentiles(hits: np.ndarray, samples: int) -> Interval:
    values = (np.arange(samples) < hits[:, None]).astype(float).ravel()
    return Resampler(np.repeat(np.arange(len(hits)), samples), 200, 0).mean(values)


def of_few_draws(trials: int, n: int = 200, dim: int = 4, seed: int = 0) -> Iterator[Covered]:
    """Coverage of a Frechet distance's expected value at this n by 20 draws, with Student's and the normal factor."""
    rng = np.random.default_rng(seed)
    reference = FeatureStatistics(1e6, np.zeros(dim), np.eye(dim) * (1e6 - 1))
    samples = [rng.normal(0.5, 1, (n, dim)) for _ in range(trials)]
    costly, intervals.COSTLY = intervals.COSTLY, 0
    try:
        found = [
            intervals.frechet_interval(x, reference, Resampler(np.arange(n), 1000, k)) for k, x in enumerate(samples)
        ]
    finally:
        intervals.COSTLY = costly
    truth = float(np.mean([interval.value for interval in found]))
    case = f"Frechet distance, {n} samples of {dim} dimensions, {intervals.FEW_DRAWS} draws"
    yield counted(case, "Student", found, truth)
    narrower = NORMAL / intervals.student(intervals.FEW_DRAWS)
    normal = [Interval(v, v - (v - low) * narrower, v + (high - v) * narrower) for v, low, high in found]
    yield counted(case, "normal", normal, truth)


def counted(case: str, rule: str, found: list[Interval], truth: float) -> Covered:
    """How often intervals hold the truth, and how wide they are."""
    held = [low <= truth <= high for _, low, high in found]
    return Covered(case, rule, float(np.mean(held)), float(np.mean([high - low for _, low, high in found])))


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics.coverage", description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="simulated evaluations of each case")
    parser.add_argument("--percentiles", action="store_true", help="the bootstrap's percentiles beside (slow)")
    options = parser.parse_args()
    print("| case | interval | coverage | width |\n| --- | --- | --- | --- |")
    missed = 0
    for lines in (of_shares(options.trials, options.percentiles), of_few_draws(options.trials)):
        for line in lines:
            print(f"| {line.case} | {line.rule} | {line.coverage:.3f} | {line.width:.3f} |", flush=True)
            missed += line.rule in ("Korn and Graubard", "Student") and line.coverage < LEAST
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
