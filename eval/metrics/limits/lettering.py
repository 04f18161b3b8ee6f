"""Words in pictures (unCLIP's figure 16 as a number): which letters a reader finds, by the length of the word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.kinds import HELD_OUT
from eval.metrics.objects.base import share

SIGN = "sign"
"""Manifest key: the word that a picture should show."""
BYTE_PAIRS = "byte_pairs"
"""Manifest key: how many tokens of CLIP's byte pair encoding the word is."""
NONE = "-"
"""A reader's class for a place behind the last letter."""


def read_words(classes: np.ndarray, attributes: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The words that a reader finds in N pictures; None for a classifier that reads no letters.

    Args:
        classes: (N, A) int64.
        attributes: the A columns -> their class names; letter_1, letter_2, ... are the letters of a word.
    """
    places = [(k, names) for k, (column, names) in enumerate(attributes.items()) if column.startswith("letter_")]
    if not places:
        return None
    return ["".join(names[row[k]] for k, names in places).replace(NONE, "") for row in classes.tolist()]


def letters_right(read: str, word: str) -> float:
    """Share of a word's letters that stand where they should, 1 - edits / length, at least 0.

    Edits are the fewest letters to put in, leave out or exchange (Levenshtein 1966), so that one letter too many costs
    one letter and not all behind it.
    """
    row = list(range(len(word) + 1))
    for k, seen in enumerate(read, 1):
        before, row[0] = row[0], k
        for j, wanted in enumerate(word, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (seen != wanted))
    return max(0.0, 1 - row[-1] / len(word))


def lettering(
    read: Sequence[str], records: Sequence[Mapping[str, Any]], resampler: Resampler
) -> dict[str, dict[str, Any]] | None:
    """Letters and whole words right: by length, for words that training showed or not, and by their byte pairs.

    By byte pairs, words of those lengths count alone of which there are words of every number of tokens: of other
    lengths the common words would be compared with nothing.

    Args:
        read: what was read in each of N pictures.
        records: their manifest lines; those without a word are left out.
        resampler: of the N samples.

    Returns:
        {"2": {"letters", "word", "n"}, ..., "all", "seen", "held out", "1 token", "held out, 1 token", ...}; None
        where no line has a word.
    """
    words = [record.get(SIGN) for record in records]
    groups: dict[str, list[int]] = {}
    compared = lengths_of_all(records)
    for k, word in enumerate(words):
        if word:
            kinds = [("held out" if records[k][HELD_OUT] else "seen")] if HELD_OUT in records[k] else []
            if BYTE_PAIRS in records[k] and len(word) in compared:
                count = records[k][BYTE_PAIRS]
                tokens = f"{count} token{'s' * (count > 1)}"
                kinds += [tokens, *(f"{kind}, {tokens}" for kind in kinds if kind == "held out")]
            for name in (str(len(word)), "all", *kinds):
                groups.setdefault(name, []).append(k)
    found: dict[str, dict[str, Any]] = {}
    for name, rows in sorted(groups.items()):
        letters, whole = np.full(len(words), np.nan), np.full(len(words), np.nan)
        for k in rows:
            letters[k], whole[k] = letters_right(read[k], str(words[k])), read[k] == words[k]
        found[name] = {
            "letters": as_json(share(letters, resampler)),
            "word": as_json(share(whole, resampler)),
            "n": len(rows),
        }
    return found or None


def lengths_of_all(records: Sequence[Mapping[str, Any]]) -> set[int]:
    """The lengths of which there are words of every number of byte pairs that occurs."""
    lengths: dict[int, set[int]] = {}
    for record in records:
        if record.get(SIGN) and BYTE_PAIRS in record:
            lengths.setdefault(record[BYTE_PAIRS], set()).add(len(record[SIGN]))
    return set.intersection(*lengths.values()) if lengths else set()
