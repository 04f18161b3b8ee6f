"""Binding on hand-made pictures: right, exchanged, missing."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.binding import outcome, outcomes


def thing(shape=None, colour=None, size=None) -> dict:
    return {"shape": shape, "colour": colour, "size": size}


def says(*objects: dict, relation=None) -> dict:
    return {"objects": list(objects), "background": None, "relation": relation, "count": None}


def sees(*objects: dict, axis="vertical") -> dict:
    return {"objects": list(objects), "axis": axis, "background": "white", "count": len(objects)}


RED_CIRCLE, BLUE_SQUARE = thing("circle", "red", "small"), thing("square", "blue", "large")
BLUE_CIRCLE, RED_SQUARE = thing("circle", "blue", "small"), thing("square", "red", "large")
BOTH = says(thing("circle", "red"), thing("square", "blue"), relation="above")
SWAPPED = sees(BLUE_CIRCLE, RED_SQUARE)

# what is seen, what is said, the pair, the outcome
CASES = {
    "right": (sees(RED_CIRCLE, BLUE_SQUARE), BOTH, ("colour", "shape"), "bound"),
    "right, the other way about": (sees(BLUE_SQUARE, RED_CIRCLE), BOTH, ("colour", "shape"), "bound"),
    "exchanged": (SWAPPED, BOTH, ("colour", "shape"), "swapped"),
    "exchanged, named in the other order": (
        SWAPPED,
        says(thing("square", "blue"), thing("circle", "red")),
        ("shape", "colour"),
        "swapped",
    ),
    "a colour twice": (sees(RED_CIRCLE, RED_SQUARE), BOTH, ("colour", "shape"), "missing"),
    "a strange colour": (sees(RED_CIRCLE, thing("square", "green")), BOTH, ("colour", "shape"), "missing"),
    "one object": (sees(RED_CIRCLE), BOTH, ("colour", "shape"), "missing"),
    "places right": (sees(RED_CIRCLE, BLUE_SQUARE), BOTH, ("shape", "place"), "bound"),
    "places exchanged": (sees(BLUE_SQUARE, RED_CIRCLE), BOTH, ("shape", "place"), "swapped"),
    "places by colour, shapes exchanged": (sees(thing("square", "red"), thing("circle", "blue")), BOTH,
                                           ("colour", "place"), "bound"),
    "along the other axis": (sees(RED_CIRCLE, BLUE_SQUARE, axis="horizontal"), BOTH, ("shape", "place"), "missing"),
    "the axis is of no account to the others": (sees(RED_CIRCLE, BLUE_SQUARE, axis="horizontal"), BOTH,
                                                ("colour", "shape"), "bound"),
    "below": (
        sees(BLUE_SQUARE, RED_CIRCLE),
        says(thing("circle", "red"), thing("square", "blue"), relation="below"),
        ("colour", "place"),
        "bound",
    ),
    "no relation is named": (sees(RED_CIRCLE, BLUE_SQUARE), says(RED_CIRCLE, BLUE_SQUARE), ("shape", "place"), None),
    "one colour for both": (SWAPPED, says(RED_CIRCLE, RED_SQUARE), ("colour", "shape"), None),
    "a colour is left open": (SWAPPED, says(thing("circle"), thing("square", "blue")), ("colour", "shape"), None),
    "one object is named": (SWAPPED, says(thing("circle", "red")), ("colour", "shape"), None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_outcome(case: str):
    seen, said, pair, expected = CASES[case]
    assert outcome(seen, said, pair) == expected


def test_outcomes_of_many():
    seen = [sees(RED_CIRCLE, BLUE_SQUARE), SWAPPED, sees(RED_CIRCLE), SWAPPED]
    said = [BOTH, BOTH, BOTH, says(thing("circle", "red"))]
    found = outcomes(seen, said)
    assert set(found) == {"colour and shape", "colour and place", "shape and place", "any"}
    expected = {"bound": [1, 0, 0, np.nan], "swapped": [0, 1, 0, np.nan], "missing": [0, 0, 1, np.nan]}
    for name, values in expected.items():
        np.testing.assert_array_equal(found["colour and shape"][name], values)
        np.testing.assert_array_equal(found["any"][name], values)
    np.testing.assert_array_equal(found["shape and place"]["bound"], [1, 1, 0, np.nan])


def test_a_missing_word_outweighs_an_exchange():
    seen = [sees(thing("circle", "blue", "small"), thing("square", "red", "small"))]
    said = [says(thing("circle", "red", "small"), thing("square", "blue", "large"))]
    found = outcomes(seen, said)
    assert found["colour and shape"]["swapped"][0] == 1 and found["any"]["missing"][0] == 1


def test_nothing_to_judge():
    assert outcomes([SWAPPED], [says(thing("circle"))]) == {} and outcomes([], []) == {}
