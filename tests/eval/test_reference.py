"""Reference statistics come back as they were, with their protocol, and refuse another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.errors import InputError
from eval.metrics.frechet import FeatureStatistics
from eval.reference import ReferenceStatistics


def test_there_and_back(tmp_path: Path):
    statistics = FeatureStatistics.of(np.random.default_rng(0).normal(size=(9, 3)))
    ReferenceStatistics(statistics, {"extractor": "Ünception", "n": 9}).save(tmp_path / "ref.npz")
    found = ReferenceStatistics.load(tmp_path / "ref.npz")
    np.testing.assert_array_equal(found.statistics.covariance, statistics.covariance)
    np.testing.assert_array_equal(found.statistics.mean, statistics.mean)
    assert found.statistics.n == 9 and found.protocol == {"extractor": "Ünception", "n": 9}
    assert found.require(extractor="Ünception") is found
    with pytest.raises(InputError, match="made with extractor = 'Ünception', these samples are measured with 'other'"):
        found.require(extractor="other")


def test_damage(tmp_path: Path):
    (tmp_path / "ref.npz").write_bytes(b"PK junk")
    np.savez(tmp_path / "else.npz", mean=np.zeros(3))
    for name in ("ref.npz", "else.npz", "nowhere.npz"):
        with pytest.raises(InputError, match=f"cannot read the reference statistics .*{name}") as caught:
            ReferenceStatistics.load(tmp_path / name)
        assert "\n" not in str(caught.value)
