"""Accuracy by the number of objects: each seen object counts once, one too many is not all right."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from eval.metrics.bootstrap import Resampler
from eval.metrics.limits.by_count import accuracy_by_count, objects_right


def things(*words: str) -> dict:
    objects = [dict(zip(("colour", "shape"), word.split(), strict=True), size=None) for word in words]
    return {"objects": objects, "background": None, "relation": None, "count": len(objects)}


@pytest.mark.parametrize(
    ("seen", "right"),
    [
        (["red circle", "red circle", "blue square"], 3),
        (["blue square", "red circle", "red circle"], 3),  # order is of no account
        (["red circle", "blue square", "blue square"], 2),  # one red circle cannot be two
        (["red square", "blue circle", "red square"], 0),
        ([], 0),
    ],
)
def test_objects_right(seen: list[str], right: int):
    assert objects_right(things(*seen), things("red circle", "red circle", "blue square")) == right


def test_what_is_not_said_fits_anything():
    said = things("red circle", "red square", "blue square")
    said["objects"][0]["shape"] = None  # "a red shape": the square, if the other red thing is taken for "a red square"
    rng = np.random.default_rng(0)
    for _ in range(50):
        seen = things(*(f"{rng.choice(['red', 'blue'])} {rng.choice(['circle', 'square'])}" for _ in range(3)))
        fits = [[all(o[k] in (None, s[k]) for k in o) for s in seen["objects"]] for o in said["objects"]]
        best = max(sum(fits[k][slot] for k, slot in enumerate(order)) for order in permutations(range(3)))
        assert objects_right(seen, said) == best


def test_by_count():
    three, one = things("red circle", "red circle", "blue square"), things("red circle")
    seen = [three, things("red circle", "blue square"), things("red circle", "red circle", "blue square", "red cross")]
    found = accuracy_by_count([*seen, one, None], [three, three, three, one, None], Resampler(np.arange(5), 9, 0))
    assert {name: found["3"][name]["value"] for name in ("object", "number", "all")} == pytest.approx(
        {"object": (1 + 2 / 3 + 1) / 3, "number": 1 / 3, "all": 1 / 3}
    )
    assert found["1"]["all"]["value"] == 1 and found["1"]["n"] == 1 and set(found) == {"1", "3"}
    assert accuracy_by_count([one], [one], Resampler(np.arange(1), 9, 0)) is None
