"""The aesthetic and the preference probe recover what was planted; ratings are read in both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.aesthetics import LinearProbe, fit_aesthetic, read_ratings, unit
from eval.errors import InputError
from eval.preference import fit_preference, probability_preferred, read_comparisons

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(400, 6)) * RNG.uniform(1, 9, size=(400, 1))
DIRECTION = np.array([2.0, -1.0, 0.0, 0.5, 0.0, 1.0])
RATINGS = 5 + unit(FEATURES) @ DIRECTION


def test_ridge_finds_the_planted_direction():
    probe = fit_aesthetic(FEATURES, RATINGS, "clip x")
    np.testing.assert_allclose(probe(FEATURES), RATINGS, atol=1e-2)
    np.testing.assert_allclose(probe.weights, DIRECTION, atol=1e-2)
    assert probe.bias == pytest.approx(5, abs=1e-2) and probe.fit["n"] == 400
    assert probe.fit["held_out_correlation"] > 0.99
    random = fit_aesthetic(FEATURES, RNG.permutation(RATINGS), "clip x")
    assert abs(random.fit["held_out_correlation"]) < 0.2  # of parts that it was not fitted on


def test_preference_recovers_the_odds():
    w = 3 * DIRECTION
    a, b = FEATURES[:200].repeat(20, axis=0), FEATURES[200:].repeat(20, axis=0)
    p = 1 / (1 + np.exp((unit(b) - unit(a)) @ w))
    first = RNG.random(len(p)) < p
    probe = fit_preference(np.where(first[:, None], a, b), np.where(first[:, None], b, a), "clip x")
    np.testing.assert_allclose(probe.weights, w, atol=0.6)
    found = probability_preferred(probe, FEATURES[:200], FEATURES[200:])
    np.testing.assert_allclose(found, p[::20], atol=0.1)
    np.testing.assert_allclose(found + probability_preferred(probe, FEATURES[200:], FEATURES[:200]), 1)
    assert 0.6 < probe.fit["held_out_accuracy"] < 1


def test_files(tmp_path: Path):
    probe = fit_aesthetic(FEATURES, RATINGS, "clip x")
    probe.save(tmp_path / "probe.json")
    loaded = LinearProbe.load(tmp_path / "probe.json", "aesthetic", "clip x")
    np.testing.assert_array_equal(loaded(FEATURES), probe(FEATURES))
    with pytest.raises(InputError, match="fitted on embeddings by clip x, not by clip y"):
        LinearProbe.load(tmp_path / "probe.json", "aesthetic", "clip y")
    with pytest.raises(InputError, match="probe of aesthetic, not of preference"):
        LinearProbe.load(tmp_path / "probe.json", "preference")
    with pytest.raises(InputError, match="reads embeddings of 6 numbers"):
        probe(FEATURES[:, :3])
    (tmp_path / "probe.json").write_text("{}")
    with pytest.raises(InputError, match="cannot read the aesthetic probe"):
        LinearProbe.load(tmp_path / "probe.json", "aesthetic")
    for few in (
        lambda: fit_aesthetic(FEATURES[:9], RATINGS[:9], "x"),
        lambda: fit_preference(FEATURES, FEATURES[:3], "x"),
    ):
        with pytest.raises(InputError, match=r"needs 10 (images|pairs)"):
            few()


def test_ratings_as_csv(tmp_path: Path):
    path = tmp_path / "ratings.csv"
    path.write_text("image, rating\na.png, 5.5\nb.png,3\n")
    assert read_ratings(path) == {"a.png": 5.5, "b.png": 3.0}
    for text, words in (
        ("image,rating\na.png,x\n", "csv:2 holds no image and rating"),
        ("image,rating\na.png,nan\n", "csv:2 holds no"),
        ("image,rating\na.png,1\nb.png,2\na.png,1\n", "csv:4 rates a.png again"),
        ("name,score\na,1\n", "neither a heading"),
        ("", "neither a heading"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_ratings(path)
    with pytest.raises(InputError, match="cannot read the ratings"):
        read_ratings(tmp_path / "nowhere.csv")


def test_ratings_as_ava_has_them(tmp_path: Path):
    path = tmp_path / "AVA.txt"
    path.write_text("1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n2 953958 10 7 15 26 26 21 10 8 1 2 15 21 1396\n")
    found = read_ratings(path)
    counts = np.array([0, 1, 5, 17, 38, 36, 15, 6, 5, 1])
    assert found["953619.jpg"] == pytest.approx((counts * np.arange(1, 11)).sum() / counts.sum())
    assert list(found) == ["953619.jpg", "953958.jpg"]
    path.write_text("1 953619 0 1 5 17 38 36 15 6 5 1 1\n2 953958 0 0 0 0 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match="txt:2 holds no image and rating"):
        read_ratings(path)


def test_comparisons(tmp_path: Path):
    path = tmp_path / "votes.csv"
    path.write_text("better,worse\na.png, b.png\n")
    assert read_comparisons(path) == [("a.png", "b.png")]
    path.write_text("better,worse\na.png,\n")
    with pytest.raises(InputError, match=r"votes\.csv:2 lacks a value"):
        read_comparisons(path)
