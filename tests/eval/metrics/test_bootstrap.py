"""Intervals: their width against the known one, whole captions drawn, the same draws for every quantity."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.bootstrap import Resampler, clustered, exact


def test_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    found = Resampler(np.arange(400), 2000, seed=0).mean(values)
    error = values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.12 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.12 * error)


def test_captions_are_drawn_with_all_their_samples():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 2)
    clustered = Resampler(np.arange(200) // 2, 2000, seed=0).mean(values)
    alone = Resampler(np.arange(100), 2000, seed=0).mean(values[::2])
    assert clustered == pytest.approx(alone)  # a copy of each sample tells nothing new


def test_groups_may_have_any_names_and_order():
    values = np.random.default_rng(0).normal(size=6)
    order = np.array([3, 0, 5, 1, 4, 2])
    names = np.array([7, 7, -2, -2, 40, 40])
    assert Resampler(names[order], 50, 0).mean(values[order]) == pytest.approx(Resampler(names, 50, 0).mean(values))


def test_unknown_values_are_left_out():
    values = np.array([1.0, np.nan, 3.0, np.nan])
    found = Resampler(np.arange(4), 500, seed=0).mean(values)
    assert (found.value, found.low, found.high) == (2, 1, 3)
    assert all(np.isnan(Resampler(np.arange(4), 10, 0).mean(np.full(4, np.nan))))


def test_a_mean_is_a_ratio_to_ones():
    rng = np.random.default_rng(0)
    values, groups = np.where(rng.random(200) < 0.2, np.nan, rng.random(200)), np.arange(200) // 2
    known = ~np.isnan(values)
    resampler = Resampler(groups, 100, 0)
    assert resampler.ratio(np.where(known, values, 0), known) == pytest.approx(resampler.mean(values))
    assert np.isnan(resampler.ratio(np.zeros(200), np.zeros(200)).value)


def test_the_interval_of_a_ratio_is_that_of_the_delta_method():
    rng = np.random.default_rng(1)
    n = 4000
    weights = (rng.random(n) < 0.3).astype(float)
    values = weights * (rng.random(n) < 0.4) - 0.1 * (rng.random(n) < 0.1)
    value, low, high = Resampler(np.arange(n), 800, 0).ratio(values, weights)
    assert value == pytest.approx(values.sum() / weights.sum())
    half = 1.96 * np.std(values - value * weights) / weights.mean() / np.sqrt(n)
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.1 * half)


def test_seeded():
    values = np.random.default_rng(0).normal(size=30)
    one, same, other = (Resampler(np.arange(30), 100, seed).mean(values) for seed in (0, 0, 1))
    assert one == same and one != other


def test_counts_are_of_captions():
    drawn = list(Resampler(np.array([4, 4, 9]), 30, seed=0).counts())
    assert len(drawn) == 30 and all(c.sum() == 2 and c.shape == (2,) for c in drawn)
    assert {tuple(c) for c in drawn} == {(2, 0), (1, 1), (0, 2)}


def test_a_biased_statistic_is_moved_back():
    values = np.random.default_rng(0).normal(size=40)
    resampler = Resampler(np.arange(40), 400, seed=0)
    plain = resampler.statistic(values.mean(), lambda w: w @ values / w.sum())
    biased = resampler.statistic(values.mean(), lambda w: w @ values / w.sum() + 7)
    assert biased == pytest.approx(plain)
    assert plain.low < plain.value < plain.high
    assert plain == pytest.approx(resampler.mean(values), abs=0.05)


def test_exact_interval_of_a_share():
    from scipy.stats import beta, binomtest

    for hits in (0, 3, 10):
        outcome = binomtest(hits, 10).proportion_ci(0.95, method="exact")
        assert exact(hits / 10, 10) == pytest.approx((hits / 10, outcome.low, outcome.high), abs=1e-9)
    assert exact(0.4, 12.5).low == pytest.approx(beta.ppf(0.025, 5, 8.5))  # as many as the variance is worth


def test_a_share_without_spread_has_the_exact_interval_over_captions():
    resampler = Resampler(np.arange(100) // 2, 200, seed=0)
    none, all_right = np.zeros(100), np.ones(100)
    assert resampler.mean(none) == (0, 0, 0)
    assert resampler.share(none) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 50)))  # 50 captions, not 100 samples
    assert resampler.share(all_right) == pytest.approx((1, 0.025 ** (1 / 50), 1))
    half = resampler.share(np.arange(100) % 2.0)  # one of the two of each caption
    assert half == pytest.approx(exact(0.5, 50)) and half.low < 0.4 < 0.6 < half.high
    some = np.where(np.arange(100) < 20, none, np.nan)
    assert resampler.share(some).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert np.isnan(resampler.share(np.full(100, np.nan)).value)


def test_a_share_over_captions_of_one_sample_is_nearly_binomial():
    from scipy.stats import t

    hits = (np.arange(200) < 160).astype(float)
    narrower = (1.9599639845400545 / t.ppf(0.975, 199)) ** 2
    assert clustered(hits, np.ones(200)) == pytest.approx(exact(0.8, 199 * narrower), abs=1e-12)


def test_samples_of_a_caption_that_agree_tell_nothing_new():
    hits = (np.arange(200) < 160).astype(float)
    once, twice = clustered(hits, np.ones(200)), clustered(2 * hits, np.full(200, 2))
    assert once == pytest.approx(twice, abs=1e-12)
    apart = clustered(np.where(np.arange(200) < 80, 1.0, 2.0), np.full(200, 2))  # 0.8 too, never both wrong
    assert apart.value == 0.8 and apart.high - apart.low < 0.8 * (once.high - once.low)


def test_a_share_that_few_captions_decide_counts_captions():
    sizes = np.full(256, 2)
    wrong = np.where(np.arange(256) < 3, 1.0, 2.0)  # 3 captions with one of two samples wrong
    assert clustered(wrong, sizes) == pytest.approx(exact(509 / 512, 256), abs=1e-12)
    more = np.where(np.arange(256) < 30, 1.0, 2.0)
    found = clustered(more, sizes)
    assert found.high - found.low < 0.75 * (lambda i: i.high - i.low)(exact(482 / 512, 256))


def test_draws():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Resampler(np.arange(3), 0, 0)
