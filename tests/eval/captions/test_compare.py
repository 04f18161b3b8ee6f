"""Captions against the truth, by hand."""

from itertools import permutations

import pytest

from eval.captions.compare import _matchings, compare, is_faultless, lengths, total, wrong_attributes
from eval.captions.report import faults, faults_table, measured, outcomes_table


def thing(shape=None, colour=None, size=None):
    return {"shape": shape, "colour": colour, "size": size}


def scene(*objects, background=None, relation=None, count=None):
    return {"objects": list(objects), "background": background, "relation": relation, "count": count}


ONE = scene(thing("circle", "red", "large"), background="tan", count=1)
TWO = scene(
    thing("circle", "red", "small"), thing("cross", "blue", "large"), background="gray", relation="above", count=2
)


def outcomes(said, truth):
    """Attribute -> (right, wrong, left out, invented), of those that are not all 0."""
    found = {name: tuple(kinds.values()) for name, kinds in compare(said, truth).items()}
    return {name: counts for name, counts in found.items() if any(counts)}


def test_a_whole_caption_is_right_in_all():
    assert outcomes(ONE, ONE) == dict.fromkeys(("shape", "colour", "size", "background", "count"), (1, 0, 0, 0))
    assert outcomes(TWO, TWO)["relation"] == (1, 0, 0, 0)
    assert is_faultless(compare(TWO, TWO)) and not wrong_attributes(compare(TWO, TWO))


def test_what_is_not_said_is_left_out_and_what_differs_is_wrong():
    said = scene(thing("square", "red"), background="tan")
    assert outcomes(said, ONE) == {
        "shape": (0, 1, 0, 0),
        "colour": (1, 0, 0, 0),
        "size": (0, 0, 1, 0),
        "background": (1, 0, 0, 0),
        "count": (0, 0, 1, 0),
    }
    assert wrong_attributes(compare(said, ONE)) == {"shape"}


def test_a_second_object_that_there_is_not_is_invented():
    said = scene(thing("circle", "red"), thing("cross", None, "small"), relation="left of", count=2)
    found = outcomes(said, ONE)
    assert found["shape"] == (1, 0, 0, 1)
    assert found["size"] == (0, 0, 1, 1)
    assert found["colour"] == (1, 0, 0, 0)
    assert found["relation"] == (0, 0, 0, 1)
    assert found["count"] == (0, 1, 0, 0)


def test_the_order_of_naming_is_of_no_account():
    turned = scene(*TWO["objects"][::-1], background="gray", relation="below", count=2)
    assert is_faultless(compare(turned, TWO))
    wrong = scene(*TWO["objects"][::-1], background="gray", relation="above", count=2)
    assert outcomes(wrong, TWO)["relation"] == (0, 1, 0, 0)
    one = scene(thing("cross", "blue"))
    assert outcomes(one, TWO)["shape"] == (1, 0, 1, 0)
    alike = scene(thing(), thing(), relation="below", count=2)  # either may be meant: the doubt is the caption's
    assert outcomes(alike, TWO)["relation"] == (1, 0, 0, 0)


def test_sums_lengths_and_the_table():
    parts = [compare(ONE, ONE), compare(scene(), ONE)]
    assert total(parts)["shape"] == {"right": 1, "wrong": 0, "left_out": 1, "invented": 0}
    found = lengths(["a b", "a b c d", "a b"])
    assert found == pytest.approx(
        {"mean": 8 / 3, "deviation": (8 / 9) ** 0.5, "shortest": 2, "longest": 4, "different": 2}
    )
    one = measured("mine", ["x y", "z"], parts, [["x"], []])
    assert (one.faultless, one.unrelated) == (0.5, 0.5)
    row = outcomes_table([one]).rows[1]
    assert [cell.text for cell in row] == ["mine", "shape", "0.500", "0.000", "0.500", "0.000"]


@pytest.mark.parametrize(("named", "true"), [(0, 2), (1, 2), (2, 2), (3, 2), (5, 2), (4, 1)])
def test_every_way_to_match_objects_is_tried_once(named, true):
    slots = [*range(true), *[None] * max(0, named - true)]
    found = list(_matchings(named, true))
    assert len(set(found)) == len(found) and set(found) == set(permutations(slots, named))


def test_a_caption_of_many_objects_is_compared_too():
    """An untrained captioner says a shape with every word; trying all orders of nineteen would not end."""
    found = outcomes(scene(*[thing("circle")] * 18, thing("cross", "blue"), count=19), TWO)
    assert found["shape"] == (2, 0, 0, 17) and found["colour"] == (1, 0, 1, 0)


def test_faults_are_shares_of_what_is_true():
    said = [scene(thing("cross", "red")), TWO]
    found = measured("made", ["a red cross", "two"], [compare(said[0], ONE), compare(said[1], TWO)], [[], []])
    row = faults(found.as_json())
    assert row["source"] == "made" and row["faultless"] == {"value": 0.5}
    assert row["wrong shape"] == {"value": pytest.approx(1 / 3)} and row["wrong colour"] == {"value": 0}
    assert row["left out size"] == {"value": pytest.approx(1 / 3)} and row["left out relation"] == {"value": 0}
    unknown = faults(measured("own", ["a cat"]).as_json())
    assert unknown["faultless"] is None and unknown["wrong shape"] is None
    table = faults_table([row, unknown], "prompts")
    assert [cell.text for cell in table.rows[0][:4]] == ["made", "0.500", "0.000", "0.333"]
    assert {cell.text for cell in table.rows[1][1:]} == {"–"}
