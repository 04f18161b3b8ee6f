"""Attribute scores of hand-made pictures, checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.metrics.scoring import ATTRIBUTES, describe, score, score_all

COLUMNS = {
    "count": ("one", "two"),
    "axis": ("vertical", "horizontal"),
    "background": ("white", "black"),
    "shape_1": ("circle", "square"),
    "colour_1": ("red", "blue"),
    "size_1": ("small", "large"),
    "shape_2": ("circle", "square"),
    "colour_2": ("red", "blue"),
    "size_2": ("small", "large"),
}
NAN = float("nan")


def thing(shape=None, colour=None, size=None) -> dict:
    return {"shape": shape, "colour": colour, "size": size}


def says(*objects: dict, background=None, relation=None, count=None) -> dict:
    return {"objects": list(objects), "background": background, "relation": relation, "count": count}


def sees(*objects: dict, axis=None, background="white") -> dict:
    return {"objects": list(objects), "axis": axis, "background": background, "count": len(objects)}


RED_CIRCLE, BLUE_SQUARE = thing("circle", "red", "small"), thing("square", "blue", "small")
BLUE_CIRCLE, RED_SQUARE = thing("circle", "blue", "small"), thing("square", "red", "small")
BOTH = (thing("circle", "red"), thing("square", "blue"))

# what is seen, what is said, the scores (colour, shape, size, background, count, relation, all)
CASES = {
    "all right": (
        sees(RED_CIRCLE, BLUE_SQUARE, axis="vertical"),
        says(*BOTH, relation="above", background="white", count=2),
        (1, 1, NAN, 1, 1, 1, 1),
    ),
    "named from below": (
        sees(BLUE_SQUARE, RED_CIRCLE, axis="vertical"),
        says(*BOTH, relation="below", count=2),
        (1, 1, NAN, NAN, 1, 1, 1),
    ),
    "order wrong": (
        sees(RED_CIRCLE, BLUE_SQUARE, axis="vertical"),
        says(*BOTH, relation="below", count=2),
        (1, 1, NAN, NAN, 1, 0, 0),
    ),
    "axis wrong": (
        sees(RED_CIRCLE, BLUE_SQUARE, axis="horizontal"),
        says(*BOTH, relation="above", count=2),
        (1, 1, NAN, NAN, 1, 0, 0),
    ),
    "right of": (
        sees(BLUE_SQUARE, RED_CIRCLE, axis="horizontal"),
        says(*BOTH, relation="right of"),
        (1, 1, NAN, NAN, NAN, 1, 1),
    ),
    # A red circle above a blue square was asked for; the colours changed places. Both matchings agree in two words,
    # by the colours the relation is wrong: it earns nothing.
    "colours swapped": (
        sees(BLUE_CIRCLE, RED_SQUARE, axis="vertical"),
        says(*BOTH, relation="above", count=2),
        (0.5, 0.5, NAN, NAN, 1, 0, 0),
    ),
    # Upside down as well: now the shapes speak against the relation.
    "colours and places swapped": (
        sees(RED_SQUARE, BLUE_CIRCLE, axis="vertical"),
        says(*BOTH, relation="above", count=2),
        (0.5, 0.5, NAN, NAN, 1, 0, 0),
    ),
    "one colour is wrong, the rest tells": (
        sees(RED_CIRCLE, RED_SQUARE, axis="vertical"),
        says(*BOTH, relation="above", count=2),
        (0.5, 1, NAN, NAN, 1, 1, 0),
    ),
    "one colour is wrong, the rest tells otherwise": (
        sees(RED_SQUARE, RED_CIRCLE, axis="vertical"),
        says(*BOTH, relation="above", count=2),
        (0.5, 1, NAN, NAN, 1, 0, 0),
    ),
    "nothing that is said is there": (
        sees(RED_CIRCLE, RED_CIRCLE, axis="vertical"),
        says(thing("square"), thing(colour="blue"), relation="above"),
        (0, 0, NAN, NAN, NAN, 0, 0),
    ),
    # Both matchings are all right, under one of them the relation, too: the caption is true.
    "either object may be meant": (
        sees(BLUE_CIRCLE, RED_CIRCLE, axis="vertical"),
        says(thing("circle"), thing(), relation="below"),
        (NAN, 1, NAN, NAN, NAN, 1, 1),
    ),
    "either object may be meant, on a wrong axis": (
        sees(BLUE_CIRCLE, RED_CIRCLE, axis="horizontal"),
        says(thing("circle"), thing(), relation="below"),
        (NAN, 1, NAN, NAN, NAN, 0, 0),
    ),
    "the same is said of both, and half of it wrong": (
        sees(BLUE_CIRCLE, RED_CIRCLE, axis="vertical"),
        says(thing(colour="red"), thing(colour="red"), relation="below"),
        (0.5, NAN, NAN, NAN, NAN, 1, 0),
    ),
    # The same without a relation: by shape the colours are wrong, by colour the shapes are; the mean of both.
    "colours swapped, no relation": (
        sees(BLUE_CIRCLE, RED_SQUARE, axis="vertical"),
        says(*BOTH, count=2),
        (0.5, 0.5, NAN, NAN, 1, NAN, 0),
    ),
    # Sizes break the tie: large red circle, small blue square wanted; large blue circle, small red square seen.
    "colours swapped, sizes tell": (
        sees(thing("square", "red", "small"), thing("circle", "blue", "large"), axis="vertical"),
        says(thing("circle", "red", "large"), thing("square", "blue", "small"), relation="above", count=2),
        (0, 1, 1, NAN, 1, 0, 0),
    ),
    "one object is missing": (
        sees(RED_CIRCLE),
        says(*BOTH, relation="above", count=2),
        (0.5, 0.5, NAN, NAN, 0, 0, 0),
    ),
    "the second is what was seen": (
        sees(BLUE_SQUARE),
        says(thing("circle", "red"), thing("square")),
        (0, 0.5, NAN, NAN, NAN, NAN, 0),
    ),
    "one is mentioned, two are seen": (
        sees(RED_CIRCLE, BLUE_SQUARE, axis="horizontal"),
        says(thing("square", "blue", "small")),
        (1, 1, 1, NAN, NAN, NAN, 1),
    ),
    "exactly one is asked for": (
        sees(RED_CIRCLE, BLUE_SQUARE, axis="horizontal"),
        says(thing("square"), count=1),
        (NAN, 1, NAN, NAN, 0, NAN, 0),
    ),
    "only the relation": (
        sees(RED_CIRCLE, RED_SQUARE, axis="vertical"),
        says(thing(), thing(), relation="below"),
        (NAN, NAN, NAN, NAN, NAN, 1, 1),
    ),
    "background wrong": (
        sees(RED_CIRCLE, background="black"),
        says(thing(colour="red"), background="white"),
        (1, NAN, NAN, 0, NAN, NAN, 0),
    ),
    "nothing is said": (sees(RED_CIRCLE), says(thing()), (NAN,) * 7),
}


@pytest.mark.parametrize("case", CASES)
def test_score(case: str):
    seen, said, expected = CASES[case]
    found = score(seen, said)
    assert list(found) == list(ATTRIBUTES)
    np.testing.assert_array_equal(list(found.values()), expected)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_naming_is_of_no_account(case: str):
    seen, said, expected = CASES[case]
    turned = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    relation = turned[said["relation"]] if said["relation"] else None
    found = score(seen, {**said, "objects": said["objects"][::-1], "relation": relation})
    np.testing.assert_array_equal(list(found.values()), expected)


def test_describe():
    classes = np.array([[0, 1, 1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0, 1, 0, 1]])
    assert describe(classes, COLUMNS) == [
        sees(thing("square", "red", "large"), background="black"),
        sees(thing("circle", "blue", "small"), thing("square", "red", "large"), axis="horizontal"),
    ]


def test_score_all_gathers_by_attribute():
    seen, said = [RED_CIRCLE, BLUE_CIRCLE], [says(thing(colour="red")), says(thing("circle"))]
    found = score_all([sees(s) for s in seen], said)
    assert set(found) == set(ATTRIBUTES)
    assert found["colour"][0] == 1 and math.isnan(found["colour"][1])
    np.testing.assert_array_equal(found["all"], [1, 1])
