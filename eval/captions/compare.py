"""Compares a caption with the known truth of its picture: what is right, wrong, left out and invented, by attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from eval.metrics.scoring import OBJECT_ATTRIBUTES

ATTRIBUTES = (*OBJECT_ATTRIBUTES, "background", "relation", "count")
OUTCOMES = ("right", "wrong", "left_out", "invented")
REVERSED = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}

Outcomes = dict[str, dict[str, int]]
"""Attribute -> outcome -> how often, of one caption or of many."""


def compare(said: Mapping[str, Any], truth: Mapping[str, Any]) -> Outcomes:
    """How one caption's claims stand to the truth of its picture.

    The objects that a caption names are matched with the true ones so that most of their attributes agree; of equally
    good matchings the one under which the relation holds counts.

    Args:
        said: {"objects": [{"shape", "colour", "size"}], "background", "relation", "count"}; None is not said.
        truth: the same of the picture, with nothing open but the relation of a lone object, which is None.

    Returns:
        For each of `ATTRIBUTES`, how often it is right, wrong, left out (true, but not said) and invented (said of an
        object or a relation that the picture does not have). Each true attribute counts once: as right, wrong or left
        out.
    """
    found: Outcomes = {name: dict.fromkeys(OUTCOMES, 0) for name in ATTRIBUTES}
    slots = _matching(said, truth)
    for place, thing in enumerate(truth["objects"]):
        named = said["objects"][slots.index(place)] if place in slots else dict.fromkeys(OBJECT_ATTRIBUTES)
        for name in OBJECT_ATTRIBUTES:
            found[name][_outcome(named[name], thing[name])] += 1
    for thing, slot in zip(said["objects"], slots, strict=True):
        if slot is None:
            for name in OBJECT_ATTRIBUTES:
                found[name]["invented"] += thing[name] is not None
    for name in ("background", "count"):
        found[name][_outcome(said[name], truth[name])] += 1
    relation = _relation(said, slots)
    if truth["relation"] is not None:
        found["relation"][_outcome(relation, truth["relation"])] += 1
    else:
        found["relation"]["invented"] += said["relation"] is not None
    return found


def _outcome(said: object, true: object) -> str:
    return "left_out" if said is None else ("right" if said == true else "wrong")


def _matching(said: Mapping[str, Any], truth: Mapping[str, Any]) -> tuple[int | None, ...]:
    """For each object that is named its true one, or None for one too many."""
    candidates = sorted(_matchings(len(said["objects"]), len(truth["objects"])), key=str)

    def agreement(slots: tuple[int | None, ...]) -> tuple[int, bool]:
        pairs = [(o, truth["objects"][s]) for o, s in zip(said["objects"], slots, strict=True) if s is not None]
        same = sum(o[name] == t[name] for o, t in pairs for name in OBJECT_ATTRIBUTES)
        relation = _relation(said, slots)
        return same, relation is not None and relation == truth["relation"]

    return max(candidates, key=agreement)


def _matchings(named: int, true: int) -> Iterator[tuple[int | None, ...]]:
    """All ways to match objects. The true ones are placed, since a captioner may name many more than there are."""
    if named <= true:
        yield from permutations(range(true), named)
        return
    for places in permutations(range(named), true):
        slots: list[int | None] = [None] * named
        for thing, place in enumerate(places):
            slots[place] = thing
        yield tuple(slots)


def _relation(said: Mapping[str, Any], slots: Sequence[int | None]) -> str | None:
    """The relation that is claimed of the first true object to the second."""
    if said["relation"] is None:
        return None
    return str(said["relation"]) if slots[0] != 1 else REVERSED[str(said["relation"])]


def total(parts: Iterable[Outcomes]) -> Outcomes:
    """The sums over captions."""
    found: Outcomes = {name: dict.fromkeys(OUTCOMES, 0) for name in ATTRIBUTES}
    for part in parts:
        for name, outcomes in part.items():
            for outcome, number in outcomes.items():
                found[name][outcome] += number
    return found


def is_faultless(outcomes: Outcomes) -> bool:
    """Whether nothing is wrong, left out or invented."""
    return all(number == 0 for found in outcomes.values() for name, number in found.items() if name != "right")


def wrong_attributes(outcomes: Outcomes) -> set[str]:
    """The attributes with something wrong or invented; an omission does not count."""
    return {name for name, found in outcomes.items() if found["wrong"] or found["invented"]}


def lengths(captions: Sequence[str]) -> dict[str, float]:
    """Words a caption: mean, standard deviation, shortest, longest; and how many captions are different.

    Raises:
        ValueError: there are no captions.
    """
    if not captions:
        raise ValueError("there are no captions")
    words = np.array([len(caption.split()) for caption in captions], np.float64)
    return {
        "mean": float(words.mean()),
        "deviation": float(words.std()),
        "shortest": float(words.min()),
        "longest": float(words.max()),
        "different": float(len(set(captions))),
    }
