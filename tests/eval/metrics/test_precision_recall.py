"""Fidelity and diversity against torch-fidelity, against a spelt-out definition, and on planted failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.errors import InputError
from eval.metrics import precision_recall
from eval.metrics.bootstrap import Resampler, exact
from eval.metrics.precision_recall import manifolds, parts_of, radii, radii_without, share_over_samples


def features(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize(("n", "m"), [(60, 60), (50, 90)])
def test_precision_and_recall_are_those_of_torch_fidelity(n: int, m: int):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    x, y = features(n), features(m, seed=1) * 1.3 + 0.5
    precision, recall = calculate_precision_recall_full(torch.from_numpy(x), torch.from_numpy(y), 3, 1000)
    found = manifolds(x, y)
    # Theirs are float32 means of the same zeros and ones.
    assert found.precise.mean() == pytest.approx(precision, abs=1e-7)
    assert found.recalled.mean() == pytest.approx(recall, abs=1e-7)
    assert 0.2 < precision < 1 and 0.2 < recall < 1 and precision != recall


@pytest.mark.parametrize("k", [3, 5])
def test_all_four_are_those_of_their_authors_package(k: int):
    from prdc import compute_prdc

    x, y = features(60), features(80, seed=1) * 1.2 + 0.5
    expected, found = compute_prdc(y, x, k), manifolds(x, y, k=k, density_k=k)
    assert found.precise.mean() == pytest.approx(expected["precision"], abs=1e-12)
    assert found.recalled.mean() == pytest.approx(expected["recall"], abs=1e-12)
    assert found.dense.mean() == pytest.approx(expected["density"], rel=1e-12)
    assert found.covered.mean() == pytest.approx(expected["coverage"], abs=1e-12)
    assert 0 < expected["coverage"] < 1 and expected["density"] != 1


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
    found = manifolds(x, y, captions=np.arange(60) // 2)
    intervals = found.intervals(Resampler(np.arange(60) // 2, 100, seed=0))
    assert list(intervals) == ["precision", "recall", "density", "coverage"] and found.captions == 30
    assert intervals["recall"].value == found.recalled.mean() and intervals["precision"].value == found.precise.mean()
    for interval in intervals.values():
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize(
    ("block", "captions"), [(1024, np.arange(60) // 2), (17, np.arange(60) // 8)]
)  # 30 captions, and 8: fewer than parts
def test_what_is_left_without_a_part_is_what_the_rest_alone_gives(
    monkeypatch: pytest.MonkeyPatch, block: int, captions: np.ndarray
):
    monkeypatch.setattr(precision_recall, "BLOCK", block)
    x, y = features(60), 1.2 * features(80, seed=1) + 0.3
    found, (member, _) = manifolds(x, y, captions=captions), parts_of(captions)
    assert member.shape == (60, min(20, len(set(captions)))) and (member.sum(1) == 1).all()
    assert all(len(set(member[captions == name].argmax(1))) == 1 for name in captions)
    whole, grown = radii_without(x, 3, member)
    np.testing.assert_allclose(whole, radii(x, [3])[:, 0], rtol=1e-12)
    for part in range(member.shape[1]):
        rest = member[:, part] == 0
        np.testing.assert_allclose(grown[rest, part], radii(x[rest], [3])[:, 0], rtol=1e-12)
        assert (grown[~rest, part] == -1).all()
        left = manifolds(x[rest], y)
        assert found.recall_without[part] == pytest.approx(left.recalled.mean())
        assert found.coverage_without[part] == pytest.approx(left.covered.mean())
    assert np.ptp(found.recall_without) > 0 and np.ptp(found.coverage_without) > 0


def simulated(n: int, times: int = 40) -> dict[str, np.ndarray]:
    """name -> (times, 3) value, low, high: sample sets of n from 7 of 10 modes, each against 1,024 new real images."""
    rng = np.random.default_rng(n)
    modes = 4 * rng.normal(size=(10, 8))
    found: dict[str, list] = {}
    for _ in range(times):
        real = modes[rng.integers(10, size=1024)] + rng.normal(size=(1024, 8))
        samples = modes[rng.integers(7, size=n)] + 0.8 * rng.normal(size=(n, 8))
        judged = manifolds(samples, real)
        intervals = judged.intervals(Resampler(np.arange(n), 100, seed=0))
        for name, interval in {**intervals, "held fixed": exact(judged.recalled.mean(), 1024)}.items():
            found.setdefault(name, []).append(interval)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("n", [72, 192])
def test_intervals_hold_the_expected_values(n: int):
    for name, drawn in simulated(n).items():
        expected, spread = drawn[:, 0].mean(), drawn[:, 0].std()
        covered = ((drawn[:, 1] <= expected) & (expected <= drawn[:, 2])).mean()
        if name == "held fixed":  # the binomial interval alone leaves out what other samples would have changed
            assert covered < 0.85
        else:
            # precision and density are for the real images at hand: that these are others each time is not in theirs
            assert covered >= (0.88 if name in ("recall", "coverage") else 0.8), name
            assert (drawn[:, 2] - drawn[:, 1]).mean() < 2.2 * (2 * 1.96 * spread), name


def test_interval_of_a_share_of_real_images():
    found, captions = np.arange(1000) < 300, 40
    alike = share_over_samples(found, np.full(20, 0.3), captions)  # samples do not matter: real images alone do
    assert alike == pytest.approx(exact(0.3, 1000))
    without = 0.3 + 0.01 * np.resize([1, -1], 20)
    variance = (2.093024 / 1.959964) ** 2 * 19 * 0.01**2 + 0.21 / 1000  # Student's quantile, jackknife; binomial
    assert share_over_samples(found, without, captions) == pytest.approx(exact(0.3, 0.21 / variance), rel=1e-5)
    for share in (0.0, 1.0):  # nothing to see in the parts: no more images than captions
        assert share_over_samples(np.full(1000, share), np.full(20, share), captions) == exact(share, 40)
    assert share_over_samples(found, np.array([1.0]), 1) == exact(0.3, 1)


def test_too_few():
    with pytest.raises(InputError, match="need 6 samples or more, found 5"):
        manifolds(features(5), features(50))
    with pytest.raises(InputError, match="need 6 reference images or more, found 4"):
        manifolds(features(50), features(4))
