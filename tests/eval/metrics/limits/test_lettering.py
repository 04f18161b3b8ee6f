"""Letters right by edit distance against an independent implementation; words by length and by what training showed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from datamodules.limits import sign_scenes
from eval.metrics.bootstrap import Resampler, clustered
from eval.metrics.limits.lettering import FREQUENCIES, lettering, letters_right, read_words, spelled


def edits(a: str, b: str) -> int:
    """By its definition, without dynamic programming."""

    @lru_cache(None)
    def least(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return least(len(a), len(b))


def test_letters_right():
    rng = np.random.default_rng(0)
    for _ in range(200):
        read, word = ("".join(rng.choice(list("abc"), rng.integers(low, 7))) for low in (0, 1))
        assert letters_right(read, word) == pytest.approx(max(0, 1 - edits(read, word) / len(word)))
    assert letters_right("windows", "window") == pytest.approx(5 / 6) and letters_right("", "ox") == 0


def test_reading():
    columns = {"letter_1": ("-", "a", "b"), "board": ("x",), "letter_2": ("-", "a", "b")}
    assert read_words(np.array([[1, 0, 2], [2, 0, 0], [0, 0, 0]]), columns) == ["ab", "b", ""]
    assert read_words(np.array([[0]]), {"count": ("one",)}) is None


def test_by_length_and_by_what_training_showed():
    records = [{"sign": "up", "shown": "often"}, {"sign": "no", "shown": "never"}, {"sign": "cat"}, {"caption": "x"}]
    found = lettering(["up", "na", "bat", "zz"], records, Resampler(np.arange(4), 9, 0))
    assert {name: (v["n"], v["words"], v["letters"]["value"], v["word"]["value"]) for name, v in found.items()} == {
        "all": (3, 3, pytest.approx((1 + 0.5 + 2 / 3) / 3), pytest.approx(1 / 3)),
        "2": (2, 2, 0.75, 0.5),
        "3": (1, 1, pytest.approx(2 / 3), 0),
        "often": (1, 1, 1, 1),
        "never": (1, 1, 0.5, 0),
    }
    assert [*found] == ["all", "2", "3", "often", "never"]
    strange = [{"sign": "up", "shown": "all"}, {"sign": "no", "shown": "2"}]
    assert [*lettering(["up", "no"], strange, Resampler(np.arange(2), 9, 0))] == ["all", "2"]
    assert lettering(["x"], [{"caption": "x"}], Resampler(np.arange(1), 9, 0)) is None


def test_intervals_are_over_words():
    """Twenty signs with one word tell no more of other words than one does."""
    words = [["up", "no", "it", "we", "go"][k % 5] for k in range(100)]
    records = [{"sign": word} for word in words]
    read = [word if word in ("up", "no") else "zz" for word in words]
    found = lettering(read, records, Resampler(np.arange(100), 200, 0))["all"]["word"]
    assert found == pytest.approx(clustered(np.array([20, 20, 0, 0, 0]), np.full(5, 20))._asdict())
    assert found["low"] < 0.1 and found["high"] > 0.8


def test_by_byte_pairs_only_lengths_that_both_have_are_compared():
    words = [("up", 1, "often"), ("cat", 1, "often"), ("dog", 1, "never"), ("gnu", 2, "never"), ("quaff", 2, "often")]
    records = [{"sign": word, "byte_pairs": count, "shown": shown} for word, count, shown in words]
    records.append({"sign": "xyz", "shown": "made up"})
    found = lettering(["up", "cat", "do", "xnu", "quaff", "xyz"], records, Resampler(np.arange(6), 9, 0))
    assert {
        name: (v["n"], v["letters"]["value"]) for name, v in found.items() if "token" in name or "part" in name
    } == {
        "1 token": (
            2,
            pytest.approx(5 / 6),
        ),  # cat and dog: no word of two letters is parted, none of five is one token
        "several tokens": (1, pytest.approx(2 / 3)),
        "often, 1 token": (1, 1),
        "never, 1 token": (1, pytest.approx(2 / 3)),
        "never, several tokens": (1, pytest.approx(2 / 3)),
    }


def test_words_one_by_one():
    words = [("up", 1, "often"), ("cat", 1, "often"), ("cat", 1, "often"), ("gnu", 2, "never")]
    records = [{"sign": word, "byte_pairs": count, "shown": shown} for word, count, shown in words]
    records += [{"sign": "xyz", "shown": "made up"}, {"caption": "none"}]
    found = spelled(["up", "cat", "bat", "gno", "xy", "z"], records)
    assert {word: (one["letters"]["value"], one["group"]) for word, one in found.items()} == {
        "up": (1, "often"),  # of two letters no word has several tokens
        "cat": (pytest.approx(5 / 6), "often, 1 token"),
        "gnu": (pytest.approx(2 / 3), "never, several tokens"),
        "xyz": (pytest.approx(2 / 3), "made up"),
    }
    assert spelled(["z"], [{"caption": "none"}]) is None


def test_frequencies_are_those_of_the_signs():
    assert FREQUENCIES == sign_scenes.KINDS
