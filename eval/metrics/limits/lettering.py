"""Words in pictures (unCLIP's figure 16 as a number): which letters a reader finds, by what training showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.objects.base import share

SIGN = "sign"
"""Manifest key: the word that a picture should show."""
BYTE_PAIRS = "byte_pairs"
"""Manifest key: how many tokens of CLIP's byte pair encoding the word is."""
ONE_TOKEN, SEVERAL = "1 token", "several tokens"
SHOWN = "shown"
"""Manifest key: how often training shows the word, one of `FREQUENCIES`."""
FREQUENCIES = ("often", "sometimes", "rarely", "never", "made up")
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
    """Letters and whole words right: by length, by how often training showed the word, and by its byte pairs.

    Intervals are over words: signs with the same word are alike. By byte pairs, words of those lengths count alone of
    which there are words of one token and of several: of other lengths they would be compared with nothing.

    Args:
        read: what was read in each of N pictures.
        records: their manifest lines; those without a word are left out.
        resampler: its draws and seed are taken.

    Returns:
        {"all": {"letters", "word", "n", "words"}, "2", ..., "often", ..., "1 token", "several tokens",
        "often, 1 token", ...}: shares, pictures and different words; None where no line has a word.
    """
    words = [record.get(SIGN) or "" for record in records]
    groups: dict[str, list[int]] = {}
    compared = lengths_of_all(records)
    for k, (word, record) in enumerate(zip(words, records, strict=True)):
        if word:
            kinds = _kinds(record, compared)
            both = [", ".join(kinds)] if len(kinds) > 1 else []
            for name in ("all", str(len(word)), *kinds, *both):
                groups.setdefault(name, []).append(k)
    by_word = Resampler(np.array(words), resampler.draws, resampler.seed)
    found: dict[str, dict[str, Any]] = {}
    for name, rows in sorted(groups.items(), key=lambda group: _place(group[0])):
        letters, whole = np.full(len(words), np.nan), np.full(len(words), np.nan)
        for k in rows:
            letters[k], whole[k] = letters_right(read[k], words[k]), read[k] == words[k]
        found[name] = {
            "letters": as_json(share(letters, by_word)),
            "word": as_json(share(whole, by_word)),
            "n": len(rows),
            "words": len({words[k] for k in rows}),
        }
    return found or None


def spelled(read: Sequence[str], records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]] | None:
    """Letters right of each word, in the mean over its pictures, so that two conditions can be compared word by word.

    Args:
        read, records: as for `lettering`.

    Returns:
        word -> {"letters": {"value"}, "group"}: "often, 1 token" and the like, or how often training shows the word
        where there are no words of the other number of tokens to compare it with; None where no line has a word.
    """
    compared, groups = lengths_of_all(records), {}
    letters: dict[str, list[float]] = {}
    for seen, record in zip(read, records, strict=True):
        if word := record.get(SIGN):
            letters.setdefault(word, []).append(letters_right(seen, word))
            groups[word] = ", ".join(_kinds(record, compared))
    found = {w: {"letters": {"value": float(np.mean(shares))}, "group": groups[w]} for w, shares in letters.items()}
    return found or None


def _kinds(record: Mapping[str, Any], compared: set[int]) -> list[str]:
    """How often training shows the word of a manifest line, and of how many tokens it is, where that is compared."""
    kinds = [record[SHOWN]] if record.get(SHOWN) in FREQUENCIES else []
    if BYTE_PAIRS in record and len(record[SIGN]) in compared:
        kinds.append(ONE_TOKEN if record[BYTE_PAIRS] == 1 else SEVERAL)
    return kinds


def _place(name: str) -> tuple[int, str]:
    """All words first, then lengths, then how often they are shown, then tokens, then both."""
    order = ["all", *FREQUENCIES, ONE_TOKEN, SEVERAL]
    order += [f"{shown}, {tokens}" for shown in FREQUENCIES for tokens in (ONE_TOKEN, SEVERAL)]
    return (order.index(name) * 2 if name in order else 1), name


def lengths_of_all(records: Sequence[Mapping[str, Any]]) -> set[int]:
    """The lengths of which there are words of one byte pair and words of several."""
    lengths: dict[bool, set[int]] = {True: set(), False: set()}
    for record in records:
        if record.get(SIGN) and BYTE_PAIRS in record:
            lengths[record[BYTE_PAIRS] == 1].add(len(record[SIGN]))
    return lengths[True] & lengths[False]
