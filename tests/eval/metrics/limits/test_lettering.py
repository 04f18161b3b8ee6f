"""Letters right by edit distance against an independent implementation; words by length and by what training showed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from eval.metrics.bootstrap import Resampler
from eval.metrics.limits.lettering import lettering, letters_right, read_words


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
    records = [{"sign": "up", "held_out": False}, {"sign": "no", "held_out": True}, {"sign": "cat"}, {"caption": "x"}]
    found = lettering(["up", "na", "bat", "zz"], records, Resampler(np.arange(4), 9, 0))
    assert {name: (v["n"], v["letters"]["value"], v["word"]["value"]) for name, v in found.items()} == {
        "2": (2, 0.75, 0.5),
        "3": (1, pytest.approx(2 / 3), 0),
        "all": (3, pytest.approx((1 + 0.5 + 2 / 3) / 3), pytest.approx(1 / 3)),
        "seen": (1, 1, 1),
        "held out": (1, 0.5, 0),
    }
    assert lettering(["x"], [{"caption": "x"}], Resampler(np.arange(1), 9, 0)) is None


def test_by_byte_pairs_only_lengths_that_all_have_are_compared():
    words = [("up", 1, False), ("cat", 1, False), ("dog", 1, True), ("gnu", 2, True), ("quaff", 2, False)]
    records = [{"sign": word, "byte_pairs": count, "held_out": unseen} for word, count, unseen in words]
    found = lettering(["up", "cat", "do", "xnu", "quaff"], records, Resampler(np.arange(5), 9, 0))
    assert {name: (v["n"], v["letters"]["value"]) for name, v in found.items() if "token" in name} == {
        "1 token": (2, pytest.approx(5 / 6)),  # cat and dog: no word of two letters has 2 tokens, none of five has 1
        "2 tokens": (1, pytest.approx(2 / 3)),
        "held out, 1 token": (1, pytest.approx(2 / 3)),
        "held out, 2 tokens": (1, pytest.approx(2 / 3)),
    }
