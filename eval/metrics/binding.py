"""Attribute binding (the paper's figure 14 as a number): are the right words in the picture, on the right objects?

Only captions that name two objects and tell them apart in two attributes can be judged: "a red circle and a blue
square". A picture of a blue circle and a red square has all its words and not its meaning; it is counted apart from a
picture where a word is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from eval.metrics.scoring import OBJECT_ATTRIBUTES, RELATIONS

PLACE = "place"
PAIRS = tuple(combinations((*OBJECT_ATTRIBUTES, PLACE), 2))
OUTCOMES = ("bound", "swapped", "missing")


def outcome(predicted: Mapping[str, Any], mentioned: Mapping[str, Any], pair: tuple[str, str]) -> str | None:
    """How a picture binds two attributes of two objects.

    Args:
        predicted, mentioned: see `eval.metrics.scoring.score`.
        pair: two of colour, shape, size, place (which of the two is the upper or left one).

    Returns:
        "bound": each object has its two values; "swapped": all four values are there, exchanged; "missing": one is
        not there. None where the caption does not tell two objects apart in both attributes.
    """
    wanted = _wanted(mentioned, pair)
    if wanted is None:
        return None
    seen = _seen(predicted, mentioned, pair)
    if seen is None:
        return "missing"
    (a, b), (c, d) = wanted
    if sorted(seen) == sorted([(a, b), (c, d)]):
        return "bound"
    return "swapped" if sorted(seen) == sorted([(a, d), (c, b)]) else "missing"


def _wanted(mentioned: Mapping[str, Any], pair: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]] | None:
    if len(mentioned["objects"]) != 2:
        return None
    values = [[_named(mentioned, k, name) for name in pair] for k in range(2)]
    (a, b), (c, d) = values
    if None in (a, b, c, d) or a == c or b == d:
        return None
    return (str(a), str(b)), (str(c), str(d))


def _named(mentioned: Mapping[str, Any], k: int, name: str) -> str | None:
    if name != PLACE:
        value = mentioned["objects"][k][name]
        return None if value is None else str(value)
    if mentioned["relation"] is None:
        return None
    return str(RELATIONS[mentioned["relation"]][1] ^ k)


def _seen(
    predicted: Mapping[str, Any], mentioned: Mapping[str, Any], pair: tuple[str, str]
) -> list[tuple[str, str]] | None:
    """The two values of each of two objects; None where another number is seen, or they lie along another axis."""
    if len(predicted["objects"]) != 2:
        return None
    if PLACE in pair and predicted["axis"] != RELATIONS[mentioned["relation"]][0]:
        return None
    rows = []
    for slot, thing in enumerate(predicted["objects"]):
        first, second = (str(slot) if name == PLACE else str(thing[name]) for name in pair)
        rows.append((first, second))
    return rows


def outcomes(
    predicted: Iterable[Mapping[str, Any]], mentioned: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, np.ndarray]]:
    """`outcome` of N pictures for all pairs of attributes.

    Returns:
        {"colour and shape": {"bound": (N,) 1 or 0, "swapped": (N,), "missing": (N,)}, ...}; nan where a caption cannot
        be judged. Pairs that no caption asks for are left out. "any": over all pairs that a caption asks for, bound if
        all are, swapped if none is missing and one is swapped.
    """
    pictures = list(zip(predicted, mentioned, strict=True))
    columns: dict[str, list[str | None]] = {
        f"{a} and {b}": [outcome(seen, said, (a, b)) for seen, said in pictures] for a, b in PAIRS
    }
    columns["any"] = [_worst(row) for row in zip(*columns.values(), strict=True)] if pictures else []
    return {
        pair: {name: np.array([np.nan if k is None else float(k == name) for k in kinds]) for name in OUTCOMES}
        for pair, kinds in columns.items()
        if any(kind is not None for kind in kinds)
    }


def _worst(kinds: Iterable[str | None]) -> str | None:
    known = [kind for kind in kinds if kind is not None]
    return max(known, key=OUTCOMES.index) if known else None
