"""GenEval's rules (2023, Ghosh et al.): what is detected in a picture against what its prompt asks for.

And shapes' exact accuracy under the names of its six tasks, for pictures whose captions have ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
"""Above which a detection counts; for counting more certain ones are asked for."""
MAX_OBJECTS = 16
POSITION_THRESHOLD = 0.1
"""By this share of both objects' sizes their centres have to lie apart."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


@dataclass(frozen=True)
class Found:
    """A detected object: its box (left, top, right, bottom) in pixels, and its mask (H, W), or None."""

    box: np.ndarray
    mask: np.ndarray | None = None


Detected = Mapping[str, Sequence[Found]]
Colours = Callable[[Sequence[Found], str], Sequence[str]]


def kept(scores: np.ndarray, counting: bool) -> np.ndarray:
    """The detections of one class that count: the most certain ones, 16 at most."""
    order = np.argsort(scores, kind="stable")[::-1]
    return order[scores[order] > (COUNTING_THRESHOLD if counting else THRESHOLD)][:MAX_OBJECTS]


def relative_position(first: np.ndarray, second: np.ndarray) -> set[str]:
    """How the first of two boxes (4,) lies to the second: some of left of, right of, above, below."""
    boxes = np.stack([first, second]).astype(np.float64).reshape(2, 2, 2)
    centres, sizes = boxes.mean(1), np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    apart = np.maximum(np.abs(offset) - POSITION_THRESHOLD * sizes.sum(0), 0) * np.sign(offset)
    if np.all(np.abs(apart) < 1e-3):
        return set()
    x, y = apart / np.linalg.norm(offset)
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, true in holds.items() if true}


def correct(detected: Detected, wanted: Mapping[str, Any], colours: Colours) -> bool:
    """Whether a picture shows all that is included, and nothing that is excluded.

    Of a class the most certain detections are looked at, as many as are asked for.

    Args:
        detected: class -> objects, the most certain first.
        wanted: a prompt's metadata, see `eval.samples.geneval.check_metadata`.
        colours: tells the colours of objects of a class.
    """
    groups: list[Sequence[Found] | None] = []
    for asked in wanted["include"]:
        groups.append(_group(detected, asked, groups, colours))
    unwanted = (len(detected.get(x["class"], ())) >= x["count"] for x in wanted.get("exclude", ()))
    return None not in groups and not any(unwanted)


def _group(
    detected: Detected, asked: Mapping[str, Any], groups: Sequence[Sequence[Found] | None], colours: Colours
) -> Sequence[Found] | None:
    """The objects that an entry of "include" asks for; None where they are not as asked."""
    found = list(detected.get(asked["class"], ()))[: asked["count"]]
    if len(found) < asked["count"]:
        return None
    if "color" in asked and list(colours(found, asked["class"])).count(asked["color"]) < asked["count"]:
        return None
    if "position" not in asked:
        return found
    where, target = asked["position"]
    others = groups[target]
    if others is None:
        return None
    holds = all(where in relative_position(a.box, b.box) for a in found for b in others)
    return found if holds else None


def shapes_task(mentioned: Mapping[str, Any] | None) -> str | None:
    """Under which of GenEval's tasks a caption of shapes falls, by its ground truth; None without, or for no task.

    position: a relation; color_attr: two objects with a colour each; two_object: two objects; counting: a number is
    said and one kind of object; colors: one object with a colour; single_object: one without.
    """
    if not mentioned or not mentioned.get("objects"):
        return None
    objects = mentioned["objects"]
    if mentioned.get("relation"):
        return "position"
    if len(objects) == 2:
        return "color_attr" if all(thing.get("colour") for thing in objects) else "two_object"
    if mentioned.get("count"):
        return "counting"
    if len(objects) == 1:
        return "colors" if objects[0].get("colour") else "single_object"
    return None
