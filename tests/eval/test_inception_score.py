"""The Inception Score against torch-fidelity on the same logits, and where its value is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.bootstrap import Resampler
from eval.inception_score import ClassStatistics, inception_score, inception_score_splits

LOGITS = 3 * np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)


def test_splits_are_those_of_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    expected = isc_features_to_metric(torch.from_numpy(LOGITS), splits=4, shuffle=False)
    found = inception_score_splits(LOGITS, splits=4)
    assert found[0] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found[1] == pytest.approx(expected["inception_score_std"], rel=1e-6)
    whole = isc_features_to_metric(torch.from_numpy(LOGITS), splits=1, shuffle=False)
    assert inception_score(LOGITS).value == pytest.approx(whole["inception_score_mean"], rel=1e-6)


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
