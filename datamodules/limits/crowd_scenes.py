"""Scenes of one to six shapes, each named by the caption: how many things does a picture hold (unCLIP, figure 17)?

A pure function of (split, index), like `datamodules.rendered.scenes`, whose drawing this is. Objects stand in one or
two rows, as many as there are numbers of them, each a little off its place; the caption names colour and shape of all
of them in reading order. Ground, size within bounds, angle and shade are never mentioned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from datamodules.rendered.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, SceneObject

COUNTS = ("one", "two", "three", "four", "five", "six")
MOST = len(COUNTS)
ROWS = {1: (1,), 2: (2,), 3: (3,), 4: (2, 2), 5: (3, 2), 6: (3, 3)}
"""How many objects stand in each row, by their number."""
RADIUS = (0.22, 0.27)  # half frames; a cell of three columns is 0.67 wide
SHIFT = 0.05
ANGLE = 0.15  # radians

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "count": COUNTS,
    **{f"shape_{slot + 1}": SHAPES for slot in range(MOST)},
    **{f"colour_{slot + 1}": COLOURS for slot in range(MOST)},
}
"""Columns of `attributes`, with their class names. Slots are in reading order."""

_SPLITS = {"train": 0, "val": 1, "test": 2}


class Crowd(NamedTuple):
    """A scene, its caption, and what the caption mentions (all that `eval.metrics.scoring` asks for)."""

    scene: Scene
    caption: str
    mentioned: dict[str, Any]


def make_crowd(split: str, index: int) -> Crowd:
    """The index-th image-text pair of a split, always the same. Numbers of objects take turns: 1 to 6, and again."""
    rng = np.random.default_rng((20220417, _SPLITS[split], index))
    looks = [(_choose(rng, SHAPES), _choose(rng, COLOURS)) for _ in range(index % MOST + 1)]
    return Crowd(_placed(rng, looks), caption_of(looks), mentioned_of(looks))


def crowd_for(mentioned: dict[str, Any], seed: int) -> Scene:
    """Another scene that the same caption describes: what it does not mention is drawn afresh."""
    rng = np.random.default_rng((20220417, 3, seed))
    return _placed(rng, [(thing["shape"], thing["colour"]) for thing in mentioned["objects"]])


def caption_of(looks: list[tuple[str, str]]) -> str:
    """ "a red circle and a blue square and ...", in reading order."""
    return " and ".join(f"a {colour} {shape}" for shape, colour in looks)


def mentioned_of(looks: list[tuple[str, str]]) -> dict[str, Any]:
    """What the caption says, the number of objects among it: it names them all."""
    objects = [{"shape": shape, "colour": colour, "size": None} for shape, colour in looks]
    return {"objects": objects, "background": None, "relation": None, "count": len(objects)}


def attributes(scene: Scene) -> np.ndarray:
    """(13,) int64 class of each column of `ATTRIBUTES`; -1 for slots without an object."""
    empty = [-1] * (MOST - len(scene.objects))
    shapes = [SHAPES.index(thing.shape) for thing in scene.objects]
    colours = [COLOURS.index(thing.colour) for thing in scene.objects]
    return np.array([len(scene.objects) - 1, *shapes, *empty, *colours, *empty], dtype=np.int64)


def _choose(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _placed(rng: np.random.Generator, looks: list[tuple[str, str]]) -> Scene:
    """The objects at the places of their number."""
    places = [
        ((column + 0.5) * 2 / width - 1, (row + 0.5) * 2 / len(ROWS[len(looks)]) - 1)
        for row, width in enumerate(ROWS[len(looks)])
        for column in range(width)
    ]
    things = []
    for (shape, colour), (x, y) in zip(looks, places, strict=True):
        dx, dy = rng.uniform(-SHIFT, SHIFT, 2)
        radius, angle, shade = rng.uniform(*RADIUS), rng.uniform(-ANGLE, ANGLE), rng.uniform(0.85, 1.0)
        things.append(SceneObject(shape, colour, "small", x + dx, y + dy, radius, angle, shade))
    return Scene(tuple(things), None, _choose(rng, BACKGROUNDS), rng.uniform(0.92, 1.0))
