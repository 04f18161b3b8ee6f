"""The Frechet distance against closed forms and against other people's code."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from eval.metrics import frechet
from eval.metrics import frechet_interval as frechet_interval_module
from eval.metrics.bootstrap import Resampler
from eval.metrics.frechet import (
    FeatureStatistics,
    FrechetDistance,
    SingularCovariance,
    frechet_distance,
    symmetric_sqrt,
)
from eval.metrics.frechet_interval import FewFeatures, WideFeatures, frechet_interval


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> FeatureStatistics:
    return FeatureStatistics(11, mean, covariance * 10)


def features(n: int = 300, d: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=d)).astype(np.float32)


def test_moments_are_those_of_numpy():
    x = features()
    found = FeatureStatistics.of(x)
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("sizes", [[300], [1, 299], [7] * 42 + [6], [150, 0, 150]])
def test_merging_gives_what_one_go_gives(sizes: list[int]):
    x = features() + 1000  # a mean far from zero costs a sum of squares its digits
    parts = [FeatureStatistics.of(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    whole = FeatureStatistics.of(x)
    for order in (parts, parts[::-1]):
        total = FeatureStatistics.empty(8)
        for part in order:
            total = total.merge(part)
        assert total.n == 300
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(total.covariance, whole.covariance, rtol=1e-9)


def test_weights_count_features_several_times():
    x, weights = features(20), np.random.default_rng(0).integers(0, 4, size=20)
    weighted, repeated = FeatureStatistics.of(x, weights), FeatureStatistics.of(np.repeat(x, weights, axis=0))
    assert weighted.n == repeated.n
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, rtol=1e-10)


def test_closed_form_in_one_dimension():
    a = gaussian(np.array([1.0]), np.array([[4.0]]))
    b = gaussian(np.array([-2.0]), np.array([[25.0]]))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 5) ** 2, rel=1e-12)


def test_closed_form_for_commuting_covariances():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    p, q, apart = rng.uniform(0, 9, size=6), rng.uniform(0, 9, size=6), rng.normal(size=6)
    p[:2], q[1:4] = 0, 0  # both singular
    a, b = gaussian(np.zeros(6), basis * p @ basis.T), gaussian(apart, basis * q @ basis.T)
    expected = apart @ apart + ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_equal_distributions_and_symmetry():
    a, b = FeatureStatistics.of(features()), FeatureStatistics.of(features(seed=1))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    few = FeatureStatistics.of(features(n=5))  # fewer features than dimensions: singular
    with pytest.warns(SingularCovariance, match="n = 5 is not above the 8 dimensions"):
        assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def cleanfid_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    from cleanfid import fid
    from scipy import linalg

    def sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
        root = linalg.sqrtm(matrix)
        return root if disp else (root, None)

    # clean-fid passes `disp`, which scipy 1.18 no longer has.
    with warnings.catch_warnings(), mock.patch.object(fid, "linalg", SimpleNamespace(sqrtm=sqrtm)):
        warnings.simplefilter("ignore")  # scipy's about singular matrices
        return float(fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance))


def torchmetrics_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    from torchmetrics.image.fid import _compute_fid as oracle

    return float(oracle(*(torch.from_numpy(x) for x in (a.mean, a.covariance, b.mean, b.covariance))))


@pytest.mark.parametrize("oracle", [cleanfid_distance, torchmetrics_distance])
@pytest.mark.parametrize("n", [300, 64])
def test_parity(oracle, n: int):
    a, b = FeatureStatistics.of(features(n)), FeatureStatistics.of(features(n, seed=1))
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    assert frechet_distance(a, b) == pytest.approx(oracle(a, b), abs=1e-10 * traces, rel=0)


@pytest.mark.parametrize(("n", "d"), [(6, 8), (8, 8), (20, 40)])
def test_singular_covariances_against_an_exact_form(n: int, d: int):
    # Where S1 S2 has rank r, Tr (S1 S2)^1/2 is the sum of the singular values of X1 X2^T: no root of a singular matrix.
    x, y = features(n, d).astype(np.float64), features(n, d, seed=1).astype(np.float64)
    a, b = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() / (n - 1)
    apart = x.mean(0) - y.mean(0)
    expected = apart @ apart + ((a**2).sum() + (b**2).sum()) / (n - 1) - 2 * cross
    with pytest.warns(SingularCovariance, match="biased upwards"):
        found = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore::eval.metrics.frechet.SingularCovariance")
@pytest.mark.parametrize("oracle", [cleanfid_distance, torchmetrics_distance])
@pytest.mark.parametrize(("n", "d"), [(6, 8), (8, 8), (20, 40), (60, 128)])
def test_parity_of_singular_covariances(oracle, n: int, d: int):
    a, b = FeatureStatistics.of(features(n, d)), FeatureStatistics.of(features(n, d, seed=1))
    assert np.linalg.matrix_rank(a.covariance) < d
    assert frechet_distance(a, b) == pytest.approx(oracle(a, b), rel=1e-6)


def test_costly_intervals_take_few_draws(monkeypatch: pytest.MonkeyPatch):
    x, reference = features(200, 3), FeatureStatistics.of(features(400, 3, seed=1))
    usual = frechet_interval(x, reference, Resampler(np.arange(200), 300, seed=0))
    monkeypatch.setattr(frechet_interval_module, "COSTLY", 0)
    monkeypatch.setattr(frechet, "CHUNK", 17)
    few = frechet_interval(x, reference, Resampler(np.arange(200), 300, seed=0))
    assert few.value == pytest.approx(usual.value, rel=1e-9)
    assert few.high - few.low == pytest.approx(usual.high - usual.low, rel=0.6)
    distance = FrechetDistance(reference)
    twenty = [distance(FeatureStatistics.of(x, counts)) for counts in Resampler(np.arange(200), 20, seed=0).counts()]
    half = 2.093024 * np.std(twenty, ddof=1)  # Student's quantile of 19 degrees of freedom
    assert few == pytest.approx((usual.value, usual.value - half, usual.value + half), rel=1e-6)


def test_square_root():
    x = features(4, 8).astype(np.float64)  # of rank 4
    matrix = x.T @ x
    root = symmetric_sqrt(matrix)
    np.testing.assert_allclose(root @ root, matrix, atol=1e-9 * np.abs(matrix).max())
    np.testing.assert_allclose(root, root.T, atol=1e-9)


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="2 features or more, found 1"):
        _ = FeatureStatistics.of(features(1)).covariance


def test_interval_covers_the_expected_distance_at_this_n():
    rng = np.random.default_rng(0)
    reference = FeatureStatistics.of(rng.normal(size=(4000, 3)))
    distance = FrechetDistance(reference)
    draw = [rng.normal(loc=0.3, size=(60, 3)) for _ in range(120)]
    expected = np.mean([distance(FeatureStatistics.of(x)) for x in draw])
    found = [frechet_interval(x, reference, Resampler(np.arange(60), 60, seed=0)) for x in draw]
    assert all(interval.low <= interval.value <= interval.high for interval in found)
    covered = np.mean([interval.low <= expected <= interval.high for interval in found])
    assert covered > 0.85


def test_samples_of_one_caption_widen_the_interval():
    x = np.random.default_rng(0).normal(size=(50, 3))
    reference = FeatureStatistics.of(np.random.default_rng(1).normal(size=(500, 3)))
    once = frechet_interval(x, reference, Resampler(np.arange(50), 200, seed=0))
    # Each twice over: no new information, so nearly the same interval; resampling of images would make it narrower.
    twice = frechet_interval(np.repeat(x, 2, axis=0), reference, Resampler(np.arange(100) // 2, 200, seed=0))
    naive = frechet_interval(np.repeat(x, 2, axis=0), reference, Resampler(np.arange(100), 200, seed=0))
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.1)
    assert naive.high - naive.low < 0.85 * (twice.high - twice.low)


def test_few_features_of_many_dimensions_take_the_same_value_another_way():
    x = features(12, 30)
    distance = FrechetDistance(FeatureStatistics.of(features(50, 30, seed=1)))
    few = FewFeatures(x, distance)
    rng = np.random.default_rng(0)
    for weights in (np.ones(12, dtype=int), rng.integers(0, 3, size=12), rng.integers(0, 9, size=12)):
        expected = distance(FeatureStatistics.of(x, weights))
        assert few(weights) == pytest.approx(expected, rel=1e-9)


def test_many_dimensions_take_the_same_value_by_one_product(monkeypatch: pytest.MonkeyPatch):
    x, reference = features(90, 30), FeatureStatistics.of(features(50, 30, seed=1))
    distance = FrechetDistance(reference)
    wide = WideFeatures(x + 50, FrechetDistance(FeatureStatistics(reference.n, reference.mean + 50, reference.scatter)))
    rng = np.random.default_rng(0)
    for weights in (np.ones(90, dtype=int), rng.integers(0, 3, size=90), rng.integers(0, 9, size=90)):
        assert wide(weights) == pytest.approx(distance(FeatureStatistics.of(x, weights)), rel=1e-5)
        assert WideFeatures(x, distance)(weights) == pytest.approx(
            distance(FeatureStatistics.of(x, weights)), rel=1e-10
        )
    usual = frechet_interval(x, reference, Resampler(np.arange(90) // 3, 20, seed=0))
    monkeypatch.setattr(frechet_interval_module, "WIDE", 8)
    assert frechet_interval(x, reference, Resampler(np.arange(90) // 3, 20, seed=0)) == pytest.approx(usual, rel=1e-10)


@pytest.mark.parametrize("n", [12, 50])
def test_the_value_of_an_interval_is_the_distance(n: int):
    x, reference = features(n, 30), FeatureStatistics.of(features(50, 30, seed=1))
    found = frechet_interval(x, reference, Resampler(np.arange(n), 5, seed=0))
    assert found.value == pytest.approx(FrechetDistance(reference)(FeatureStatistics.of(x)), rel=1e-9)
