"""Differences word by word, against the formulas of their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from eval.tables.spelling import differences, spelling_table, welch


def spelled(seed, gains, n=20):
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(9).random((len(gains), n))  # some words are harder than others, for every decoder
    return {
        f"{group}{k}": {"letters": {"value": float(hard[place, k] + gain + 0.05 * rng.random())}, "group": group}
        for place, (group, gain) in enumerate(gains.items())
        for k in range(n)
    }


@pytest.fixture
def rows():
    characters = {"never, 1 token": 0.5, "often, 1 token": 0.1, "never, several tokens": 0.1, "made up": 0.2}
    return [
        {"condition": "caption_only_characters", "spelled": spelled(1, characters)},
        {"condition": "caption_only_bpe", "spelled": spelled(2, dict.fromkeys(characters, 0.0))},
        {"condition": "real", "spelled": None},
    ]


def test_differences_are_paired_by_word(rows):
    gaps = differences(rows[0]["spelled"], rows[1]["spelled"])
    table = {row[1].text: row for row in spelling_table(rows).rows}
    one = gaps["never, 1 token"]
    low, high = ttest_1samp(one, 0).confidence_interval(0.95)
    assert table["never, 1 token"][3] == (f"{np.mean(one):.3f}", f"[{low:.3f}, {high:.3f}]")
    assert high - low < 0.05 and len(one) == 20  # hard words are hard for both
    assert sorted(gaps["never"]) == sorted([*gaps["never, 1 token"], *gaps["never, several tokens"]])
    assert set(table) == {
        "never, 1 token",
        "often, 1 token",
        "never, several tokens",
        "made up",
        "never",
        "often",
        "never, 1 token, beyond often, 1 token",
        "never, 1 token, beyond never, several tokens",
    }


def test_a_difference_of_differences_has_welchs_interval(rows):
    gaps = differences(rows[0]["spelled"], rows[1]["spelled"])
    first, second = gaps["never, 1 token"], gaps["often, 1 token"][:7]
    parts = [np.var(values, ddof=1) / len(values) for values in (first, second)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 19 + parts[1] ** 2 / 6)  # Welch and Satterthwaite
    gap, half = np.mean(first) - np.mean(second), t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert welch(first, second) == pytest.approx((gap, gap - half, gap + half))
    assert welch([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_it_says_whether_the_decoder_has_learned_to_spell(rows):
    words = [word["letters"]["value"] for word in rows[0]["spelled"].values() if word["group"] == "often, 1 token"]
    assert f"characters have {np.mean(words):.2f} of the letters" in spelling_table(rows).notes[1]
    assert spelling_table(rows[1:]).rows == []
