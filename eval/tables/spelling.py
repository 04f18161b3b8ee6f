"""Who spells better, word by word: decoders that read characters against those that read byte pairs or words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import LEVEL, Interval, as_json
from eval.metrics.limits.lettering import FREQUENCIES, ONE_TOKEN, SEVERAL
from eval.tables.main import Cell, Row, Table, label, number
from eval.tables.seeds import t_interval

PAIRS = (
    ("caption_only_characters", "caption_only_bpe"),
    ("caption_only_characters", "caption_only"),
    ("image_embedding_characters", "image_embedding_bpe"),
    ("image_embedding_characters", "image_embedding_alone"),
)
"""Conditions whose letters are compared, the first less the second."""
GROUPS = (*(f"{shown}, {tokens}" for shown in FREQUENCIES for tokens in (ONE_TOKEN, SEVERAL)), *FREQUENCIES)
BEYOND = (
    (f"never, {ONE_TOKEN}", f"often, {ONE_TOKEN}"),
    (f"never, {ONE_TOKEN}", f"never, {SEVERAL}"),
)
"""Groups of words at the first of which characters should gain more, if byte pairs hide the spelling."""
LEARNED = 0.8
"""Letters of words that training showed often, by characters from captions alone, without which nothing is decided."""


def spelling_table(rows: Sequence[Row]) -> Table:
    """Differences in letters right between two conditions, by group of words; without rows where no pair was drawn.

    Args:
        rows: of the main table, with "spelled" of `eval.metrics.limits.lettering.spelled`.
    """
    known = {str(row["condition"]): row["spelled"] for row in rows if row.get("spelled")}
    body = []
    for first, second in PAIRS:
        if first not in known or second not in known:
            continue
        gaps = differences(known[first], known[second])
        head = Cell(f"{label(first)} − {label(second)}")
        for group in GROUPS:
            if group in gaps:
                interval = as_json(t_interval(gaps[group]))
                body.append([head, Cell(group), Cell(str(len(gaps[group]))), number(interval, 3)])
        for more, less in BEYOND:
            if min(len(gaps.get(more, ())), len(gaps.get(less, ()))) > 1:
                several = Cell(f"{len(gaps[more])}, {len(gaps[less])}")
                body.append(
                    [head, Cell(f"{more}, beyond {less}"), several, number(as_json(welch(gaps[more], gaps[less])), 3)]
                )
    said = [
        f"Differences in letters right, word by word; in brackets Student's {LEVEL:.0%} interval over words. Beyond:"
        " by how much more at the words named first (Welch's interval).",
        f"From captions alone characters have {_learned(known)} of the letters of words that training showed often;"
        f" below {LEARNED} they have not learned to spell, and nothing is decided.",
    ]
    return Table("Spelling", ["difference", "words", "n", "letters"], body, said)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[float]]:
    """Group of words -> the differences of the words that both have."""
    found: dict[str, list[float]] = {}
    for word, one in first.items():
        if word in second:
            gap = float(one["letters"]["value"]) - float(second[word]["letters"]["value"])
            for group in {one["group"], one["group"].split(", ")[0]}:
                found.setdefault(group, []).append(gap)
    return found


def welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The difference of two means of independent values, with its interval for unequal variances (Welch 1947)."""
    from scipy.stats import ttest_ind

    gap = float(np.mean(first) - np.mean(second))
    if np.ptp(first) == np.ptp(second) == 0:
        return Interval(gap, gap, gap)
    low, high = ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    return Interval(gap, float(low), float(high))


def _learned(known: Mapping[str, Any]) -> str:
    words = known.get(PAIRS[0][0], {}).values()
    values = [word["letters"]["value"] for word in words if word["group"].split(", ")[0] == FREQUENCIES[0]]
    return f"{np.mean(values):.2f}" if values else "an unknown share"
