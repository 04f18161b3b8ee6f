"""The Inception Score against torch-fidelity on the same logits, and where its value is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.metrics.bootstrap import Resampler
from eval.metrics.inception_score import ClassStatistics, inception_score, inception_score_splits

LOGITS = 3 * np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)


def test_splits_are_those_of_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.from_numpy(LOGITS).double()
    expected = isc_features_to_metric(logits, splits=4, shuffle=False)
    found = inception_score_splits(LOGITS, splits=4)
    assert found[0] == pytest.approx(expected["inception_score_mean"], rel=1e-10)
    assert found[1] == pytest.approx(expected["inception_score_std"], rel=1e-10)
    whole = isc_features_to_metric(logits, splits=1, shuffle=False)
    assert inception_score(LOGITS).value == pytest.approx(whole["inception_score_mean"], rel=1e-10)


def test_known_values():
    sure = 1000 * np.eye(5)[np.arange(40) % 5]
    assert inception_score(sure).value == pytest.approx(5)  # each of five classes, equally often, without doubt
    assert inception_score(np.zeros((10, 5))).value == pytest.approx(1)
    assert inception_score(sure[:1].repeat(9, axis=0)).value == pytest.approx(1)


def test_merge_in_any_order():
    parts = [ClassStatistics.of(part) for part in np.split(LOGITS, [1, 40, 40, 77])]
    for order in (parts, parts[::-1]):
        total = order[0]
        for part in order[1:]:
            total = total.merge(part)
        assert total.n == 100 and total.score == pytest.approx(ClassStatistics.of(LOGITS).score, rel=1e-12)


def test_interval_holds_the_value():
    found = inception_score(LOGITS, Resampler(np.arange(100) // 2, 100, seed=0))
    assert found.low < found.value < found.high and found.value == inception_score(LOGITS).value


def test_interval_is_that_of_the_score_of_each_draw(monkeypatch: pytest.MonkeyPatch):
    from torch_fidelity.metric_isc import isc_features_to_metric

    resampler = Resampler(np.arange(100) // 2, 40, seed=3)
    drawn = []
    for counts in resampler.counts():
        rows = np.repeat(np.arange(100), counts[resampler.groups])
        whole = isc_features_to_metric(torch.from_numpy(LOGITS[rows]).double(), splits=1, shuffle=False)
        drawn.append(whole["inception_score_mean"])
    low, high = np.percentile(np.array(drawn) - np.mean(drawn), [2.5, 97.5])
    value = inception_score(LOGITS).value
    for block, span in ((512, 8192), (7, 8192), (7, 30)):
        monkeypatch.setattr("eval.metrics.inception_score.BLOCK", block)
        monkeypatch.setattr("eval.metrics.inception_score.SPAN", span)
        assert inception_score(LOGITS, resampler) == pytest.approx((value, value + low, value + high), rel=1e-9)
        doubled = inception_score(LOGITS / 2, resampler, lambda x: 2 * x)
        assert doubled == pytest.approx((value, value + low, value + high), rel=1e-9)


def test_memory_does_not_grow_with_the_images():
    import tracemalloc

    def peak(n: int) -> int:
        features, weight = np.zeros((n, 4), dtype=np.float32), np.ones((4, 200), dtype=np.float32)
        tracemalloc.start()
        inception_score(features, Resampler(np.arange(n), 20, seed=0), lambda x: x @ weight)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(8000) < peak(2000) + 1e6  # logits alone would be 10 MB more, in float64
