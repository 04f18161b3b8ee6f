"""Fidelity and diversity against torch-fidelity, against a spelt-out definition, and on planted failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval import precision_recall
from eval.bootstrap import Resampler
from eval.errors import InputError
from eval.precision_recall import manifolds, radii, share


def features(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize(("n", "m"), [(60, 60), (50, 90)])
def test_precision_and_recall_are_those_of_torch_fidelity(n: int, m: int):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    x, y = features(n), features(m, seed=1) * 1.3 + 0.5
    precision, recall = calculate_precision_recall_full(torch.from_numpy(x), torch.from_numpy(y), 3, 1000)
    found = manifolds(x, y)
    assert found.precise.mean() == pytest.approx(precision, abs=1e-6)
    assert found.recalled.mean() == pytest.approx(recall, abs=1e-6)
    assert 0.2 < precision < 1 and 0.2 < recall < 1 and precision != recall


def test_density_and_coverage_as_defined():
    x, y, k = features(40), features(30, seed=1) + 0.7, 4
    balls = [sorted(np.linalg.norm(y - center, axis=1))[k] for center in y]  # the 0-th is itself
    inside = np.array([[np.linalg.norm(a - b) < r for b, r in zip(y, balls, strict=True)] for a in x])
    found = manifolds(x, y, density_k=k)
    np.testing.assert_array_equal(found.dense, inside.sum(1) / k)
    np.testing.assert_array_equal(found.covered, inside.any(0))


def test_blocks_and_a_far_mean_are_of_no_account(monkeypatch: pytest.MonkeyPatch):
    x, y = features(45), features(33, seed=1) + 0.5
    whole = manifolds(x, y)
    monkeypatch.setattr(precision_recall, "BLOCK", 7)
    for parts in (manifolds(x, y), manifolds(x + 1e4, y + 1e4)):
        for name in ("precise", "dense", "recalled", "covered"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_radii_of_points_on_a_line():
    x = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_allclose(radii(x, [1, 2]), [[1, 9], [1, 4], [4, 9], [16, 36]])
    twice = np.array([[0.0], [0.0], [2.0]])  # the same point again is a neighbour at distance 0
    np.testing.assert_allclose(radii(twice, [1])[:, 0], [0, 0, 4])


def rates(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    found = manifolds(x, y)
    names = ("precise", "dense", "recalled", "covered")
    return {name: float(getattr(found, name).mean()) for name in names}


def test_mode_collapse_costs_recall_and_noise_costs_precision():
    rng = np.random.default_rng(0)
    modes = 8 * rng.normal(size=(10, 6))
    real = modes[rng.integers(10, size=600)] + rng.normal(size=(600, 6))
    good = modes[rng.integers(10, size=600)] + rng.normal(size=(600, 6))
    collapsed = modes[rng.integers(2, size=600)] + rng.normal(size=(600, 6))
    noisy = np.where(rng.random(600)[:, None] < 0.5, good, 20 * rng.normal(size=(600, 6)))
    base, few, noise = rates(good, real), rates(collapsed, real), rates(noisy, real)
    assert base["precise"] > 0.85 and base["recalled"] > 0.85 and base["dense"] == pytest.approx(1, abs=0.1)
    assert few["precise"] > base["precise"] - 0.05 and few["recalled"] < 0.35 and few["covered"] < 0.35
    assert noise["precise"] < 0.6 and noise["dense"] < 0.6 and noise["recalled"] > base["recalled"] - 0.05


def test_intervals():
    x, y = features(60), features(80, seed=1) + 0.5
    found = manifolds(x, y)
    intervals = found.intervals(Resampler(np.arange(60) // 2, 100, seed=0))
    assert list(intervals) == ["precision", "recall", "density", "coverage"]
    assert intervals["recall"] == share(found.recalled) and intervals["precision"].value == found.precise.mean()
    for interval in intervals.values():
        assert interval.low < interval.value < interval.high


def test_exact_interval_of_a_share():
    from scipy.stats import binomtest

    for hits in (0, 3, 10):
        outcome = binomtest(hits, 10).proportion_ci(0.95, method="exact")
        found = share(np.arange(10) < hits)
        assert found == pytest.approx((hits / 10, outcome.low, outcome.high), abs=1e-9)


def test_too_few():
    with pytest.raises(InputError, match="need 6 samples or more, found 5"):
        manifolds(features(5), features(50))
    with pytest.raises(InputError, match="need 6 reference images or more, found 4"):
        manifolds(features(50), features(4))
