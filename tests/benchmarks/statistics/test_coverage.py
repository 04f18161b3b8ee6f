"""The simulation of coverage: the draws have the share and the correlation asked for, and today's rules cover."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics.coverage import correct, counted, of_few_draws
from eval.metrics.bootstrap import Interval, clustered


@pytest.mark.parametrize("correlation", [0.0, 0.4, 1.0])
def test_captions_have_the_share_and_the_correlation(correlation: float):
    hits = correct(200_000, 2, 0.9, correlation, np.random.default_rng(0))
    assert hits.mean() / 2 == pytest.approx(0.9, abs=0.003)
    both = (hits == 2).mean()  # share^2 + correlation x share (1 - share)
    assert both == pytest.approx(0.81 + correlation * 0.09, abs=0.003)


@pytest.mark.parametrize(("share", "correlation"), [(0.97, 0.3), (0.99, 0.6)])
def test_shares_near_one_are_covered(share: float, correlation: float):
    rng, sizes = np.random.default_rng(1), np.full(256, 2)
    found = [clustered(correct(256, 2, share, correlation, rng), sizes) for _ in range(1000)]
    assert counted("", "", found, share).coverage >= 0.935  # 0.94, less the simulation's own error


def test_students_factor_covers_where_the_normal_one_does_not():
    student, normal = of_few_draws(150, n=60, dim=2)
    assert student.coverage > normal.coverage and student.width / normal.width == pytest.approx(2.093024 / 1.959964)


def test_counting():
    found = [Interval(0.5, 0.4, 0.6), Interval(0.5, 0.55, 0.65)]
    line = counted("case", "rule", found, 0.5)
    assert line.coverage == 0.5 and line.width == pytest.approx(0.15)
