"""The aesthetic and the preference probe recover what was planted; ratings are read in both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.errors import InputError
from eval.judges.aesthetics import LinearProbe, fit_aesthetic, read_ratings, unit
from eval.judges.folds import pair_folds
from eval.judges.preference import fit_preference, probability_preferred, read_comparisons

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


def test_ratings_in_any_order_are_held_out_alike():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(300, 20))
    noise, signal = rng.normal(size=300), unit(features) @ rng.normal(size=20) + 0.7 * rng.normal(size=300)

    def held_out(ratings: np.ndarray, order: np.ndarray) -> float:
        return fit_aesthetic(features[order], ratings[order], "x").fit["held_out_correlation"]

    assert abs(held_out(noise, np.argsort(noise))) < 0.2  # in unshuffled fifths it is about -0.9
    mixed, ordered = held_out(signal, np.arange(300)), held_out(signal, np.argsort(signal))
    assert mixed == pytest.approx(ordered, abs=1e-6) and mixed > 0.6


def test_the_aesthetic_score_is_that_of_unseen_images():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2120, 60))
    y = unit(x) @ (2 * rng.normal(size=60)) + 2 * rng.normal(size=2120)
    probe = fit_aesthetic(x[:120], y[:120], "x")
    unseen, seen = (np.corrcoef(probe(x[rows]), y[rows])[0, 1] for rows in (slice(120, None), slice(120)))
    assert probe.fit["held_out_correlation"] == pytest.approx(unseen, abs=0.12) and seen > unseen + 0.2
    again = np.tile(x[:120], (3, 1)), np.tile(rng.normal(size=120), 3)  # three ratings of each image, all noise
    assert abs(fit_aesthetic(*again, "x").fit["held_out_correlation"]) < 0.3


def test_preferences_of_the_same_pair_are_held_out_together():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 64))
    winner = rng.random(40) < 0.5  # nothing to learn
    better, worse = (
        np.where(winner[:, None], a, b).repeat(25, axis=0),
        np.where(winner[:, None], b, a).repeat(25, axis=0),
    )
    for order in (np.arange(1000), rng.permutation(1000)):
        fit = fit_preference(better[order], worse[order], "x").fit
        assert 0.25 < fit["held_out_accuracy"] < 0.75 and fit["held_out_n"] == 1000


def test_preferences_of_the_same_image_are_held_out_together():
    rng = np.random.default_rng(1)
    images, merit = (
        rng.normal(size=(60, 100)),
        rng.normal(size=60),
    )  # in 100 dimensions any merit can be learned by heart
    first, second = rng.integers(60, size=(2, 1500))
    first, second = first[first != second], second[first != second]
    wins = merit[first] > merit[second]
    better, worse = np.where(wins, first, second), np.where(wins, second, first)
    fit = fit_preference(images[better], images[worse], "x").fit
    assert 0.3 < fit["held_out_accuracy"] < 0.7  # every image meets every other: dealt one by one, the rest left out
    assert 0 < fit["held_out_n"] < 0.4 * len(better)


def test_parts_of_pairs_share_no_image():
    rng = np.random.default_rng(2)
    images = rng.normal(size=(90, 3))
    chains = np.arange(90).reshape(30, 3)  # 30 groups of three images, compared with each other only
    pairs = chains[rng.integers(30, size=300)][:, :2] + rng.integers(2, size=(300, 1))
    everything = rng.integers(90, size=(300, 2))
    for compared, all_judged in ((pairs, True), (everything, False)):
        judged = []
        for learned, held in pair_folds(images[compared[:, 0]], images[compared[:, 1]]):
            assert not set(compared[learned].ravel()) & set(compared[held].ravel())
            judged += held.tolist()
        assert len(set(judged)) == len(judged) and (len(judged) == 300) == all_judged
    one = np.zeros((10, 3))
    assert fit_preference(one + np.eye(3)[0], one + np.eye(3)[1], "x").fit["held_out_accuracy"] is None


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
        ("name,score\na,1\n", "neither the headings"),
        ("", "neither the headings"),
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
