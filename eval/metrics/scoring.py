"""How much of what a caption mentions is in the picture. Attributes that the caption leaves open do not count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

OBJECT_ATTRIBUTES = ("colour", "shape", "size")
ATTRIBUTES = (*OBJECT_ATTRIBUTES, "background", "count", "relation", "all")
"""The scores of `score`, in the order of the tables; "all" is 1 where everything mentioned is right."""

# Slot 1 is the upper or left object, so a relation asks for an axis and for the slot of the object named first.
RELATIONS = {
    "above": ("vertical", 0),
    "below": ("vertical", 1),
    "left of": ("horizontal", 0),
    "right of": ("horizontal", 1),
}


def describe(classes: np.ndarray, attributes: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Turns predicted classes into words.

    Args:
        classes: (N, A) int64.
        attributes: the A columns -> their class names; "count" (its k-th class means k + 1 objects), "axis",
            "background" and <attribute>_<slot>.

    Returns:
        N dicts {"count": int, "axis": str | None, "background": str, "objects": [{"shape", "colour", "size"}, ...]},
        the objects in the order of their slots. The axis of a lone object is None.
    """
    names = list(attributes)
    return [_describe_one(dict(zip(names, row, strict=True)), attributes) for row in classes.tolist()]


def _describe_one(row: Mapping[str, int], attributes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    def word(column: str) -> str | None:
        return attributes[column][row[column]] if column in attributes and row[column] >= 0 else None

    count = row["count"] + 1
    objects = [{name: word(f"{name}_{slot + 1}") for name in OBJECT_ATTRIBUTES} for slot in range(count)]
    axis = word("axis") if count > 1 else None
    return {"count": count, "axis": axis, "background": word("background"), "objects": objects}


def score_all(predicted: Iterable[Mapping[str, Any]], mentioned: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """`score` for N images: each name of `ATTRIBUTES` -> (N,) float64, nan where a caption says nothing of it."""
    scores = [score(p, m) for p, m in zip(predicted, mentioned, strict=True)]
    return {name: np.array([s[name] for s in scores], dtype=np.float64) for name in ATTRIBUTES}


def score(predicted: Mapping[str, Any], mentioned: Mapping[str, Any]) -> dict[str, float]:
    """Scores one picture against its caption.

    The mentioned objects are matched with the seen ones so that most of their attributes agree. Of equally good
    matchings the mean counts: the order of naming does not matter.

    The relation is right only if it holds in all of the best matchings. So two objects that the other words do not tell
    apart earn nothing by lying along the right line. In two cases one matching suffices: all that is said of the
    objects is right, or the same is said of both ("a shape above a shape").

    Args:
        predicted: what is seen, see `describe`.
        mentioned: {"objects": [{"shape", "colour", "size"}], "background", "relation", "count"}; None = not mentioned.

    Returns:
        Each name of `ATTRIBUTES` -> share right in [0, 1], or nan if the caption does not mention it. The colour of two
        objects is 0.5 if one is right; an object that is not there has nothing right.
    """
    best = _best_assignments(predicted, mentioned)
    found = {name: _mean([_share(predicted, mentioned, a, name) for a in best]) for name in OBJECT_ATTRIBUTES}
    for name in ("background", "count"):
        wanted = mentioned[name]
        found[name] = float("nan") if wanted is None else float(predicted[name] == wanted)
    found["relation"] = _relation_of(predicted, mentioned, best)
    known = [value for value in found.values() if not np.isnan(value)]
    found["all"] = float(min(known) == 1.0) if known else float("nan")
    return found


MAX_OBJECTS = 6
"""Objects of a caption: scoring tries every order of them."""


def problem_with(mentioned: Any) -> str | None:
    """The fault of a manifest's "mentioned", in a few words; None if `score` can read it."""
    if not isinstance(mentioned, dict) or not isinstance(mentioned.get("objects"), list):
        return "it holds no list of objects"
    if len(mentioned["objects"]) > MAX_OBJECTS:
        return f"it has {len(mentioned['objects'])} objects, more than the {MAX_OBJECTS} that are matched"
    lacking = [key for key in ("background", "relation", "count") if key not in mentioned]
    if lacking:
        return f"it lacks {lacking[0]}"
    for thing in mentioned["objects"]:
        if not isinstance(thing, dict) or any(name not in thing for name in OBJECT_ATTRIBUTES):
            return f"an object has {', '.join(OBJECT_ATTRIBUTES)}, found {repr(thing)[:100]}"
    relation = mentioned["relation"]
    if relation is not None and (relation not in tuple(RELATIONS) or len(mentioned["objects"]) != 2):
        return f"a relation is one of {', '.join(RELATIONS)}, of two objects; found {repr(relation)[:100]}"
    return None


def _best_assignments(predicted: Mapping[str, Any], mentioned: Mapping[str, Any]) -> list[tuple[int | None, ...]]:
    """For each mentioned object its slot, or None for one too many; all matchings that are best."""
    wanted, seen = len(mentioned["objects"]), len(predicted["objects"])
    slots: list[int | None] = [*range(seen), *[None] * max(0, wanted - seen)]
    candidates = sorted(set(permutations(slots, wanted)), key=str)
    matches = [_matches(predicted, mentioned, candidate) for candidate in candidates]
    return [c for c, m in zip(candidates, matches, strict=True) if m == max(matches)]


def _right(
    predicted: Mapping[str, Any], mentioned: Mapping[str, Any], slots: Sequence[int | None], name: str
) -> list[bool]:
    """Whether each mentioned attribute `name` is right, over the mentioned objects."""
    pairs = zip(mentioned["objects"], slots, strict=True)
    return [s is not None and predicted["objects"][s][name] == o[name] for o, s in pairs if o[name] is not None]


def _matches(predicted: Mapping[str, Any], mentioned: Mapping[str, Any], slots: Sequence[int | None]) -> int:
    return sum(sum(_right(predicted, mentioned, slots, name)) for name in OBJECT_ATTRIBUTES)


def _share(predicted: Mapping[str, Any], mentioned: Mapping[str, Any], slots: Sequence[int | None], name: str) -> float:
    right = _right(predicted, mentioned, slots, name)
    return sum(right) / len(right) if right else float("nan")


def _relation(predicted: Mapping[str, Any], mentioned: Mapping[str, Any], slots: Sequence[int | None]) -> float:
    if mentioned["relation"] is None:
        return float("nan")
    axis, first = RELATIONS[mentioned["relation"]]
    return float(predicted["axis"] == axis and slots[0] == first and slots[1] == 1 - first)


def _relation_of(
    predicted: Mapping[str, Any], mentioned: Mapping[str, Any], best: Sequence[tuple[int | None, ...]]
) -> float:
    """Whether the relation holds under the best matchings: under all, or under one where that is no doubt."""
    found = [_relation(predicted, mentioned, slots) for slots in best]
    objects = mentioned["objects"]
    said = sum(thing[name] is not None for thing in objects for name in OBJECT_ATTRIBUTES)
    certain = _matches(predicted, mentioned, best[0]) == said or all(thing == objects[0] for thing in objects)
    return max(found) if certain else min(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
