"""What the embedded data set shows: scenes of one or two shapes, their captions and their pictures.

Everything is a pure function of (split, index): no files, no state. A caption leaves attributes out with some
probability, so that one caption fits many pictures (which is what a prior is for); position, angle and shade are never
mentioned. The truth travels with the pair, so that an evaluation can be exact.

Coordinates are those of the frame, x to the right and y downwards, both in [-1, 1]; lengths are in half frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "gray", "black", "tan")
AXES = ("vertical", "horizontal")
RELATIONS = ("above", "below", "left of", "right of")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "count": ("one", "two"),
    "axis": AXES,
    "background": BACKGROUNDS,
    "shape_1": SHAPES,
    "colour_1": COLOURS,
    "size_1": SIZES,
    "shape_2": SHAPES,
    "colour_2": COLOURS,
    "size_2": SIZES,
}
"""Columns of `attributes`, with their class names. Slot 1 is the upper or left object."""

VOCABULARY = (
    *sorted({"a", "one", "and", "shape", "on", "background", *" ".join(RELATIONS).split()}),
    *(*SIZES, *COLOURS, *SHAPES, *BACKGROUNDS),
)
"""Every word that a caption may hold."""

HELD_OUT = (("red", "triangle"), ("blue", "cross"), ("yellow", "circle"))
"""(colour, shape) of objects that no training or validation scene holds, while some test scenes do."""

KEEP = {"colour": 0.8, "shape": 0.9, "size": 0.4, "background": 0.4, "relation": 0.7, "second": 0.85, "count": 0.5}
"""How often a caption mentions each attribute."""

SHARE_OF_PAIRS = 0.4
SHARE_OF_HELD_OUT = 0.125
RADIUS = {"small": 0.32, "large": 0.44}
ALONE = 1.35  # A lone object is drawn larger by this factor.
MAX_SHIFT = 0.12  # of a lone object's centre, and of a pair's across its axis
MAX_ANGLE = 0.15  # radians

_SPLITS = {"train": 0, "val": 1, "test": 2, "unrestricted": 4}
_COLOUR_RGB = {
    "red": (214, 48, 44),
    "green": (46, 158, 66),
    "blue": (44, 84, 214),
    "yellow": (242, 208, 48),
    "purple": (140, 58, 172),
    "cyan": (64, 200, 214),
}
_BACKGROUND_RGB = {"white": (246, 246, 246), "gray": (136, 136, 136), "black": (22, 22, 22), "tan": (208, 176, 132)}


@dataclass(frozen=True)
class SceneObject:
    """One shape: its named attributes, and those that no caption mentions (place, radius, angle, shade)."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    shade: float


@dataclass(frozen=True)
class Scene:
    """One or two objects, upper or left first, on a background; `axis` is None for a lone object."""

    objects: tuple[SceneObject, ...]
    axis: str | None
    background: str
    background_shade: float


@dataclass(frozen=True)
class Pair:
    """A scene, a caption of it, and what the caption mentions (see `describe` for the structure)."""

    scene: Scene
    caption: str
    mentioned: dict[str, Any]


def make_pair(split: str, index: int) -> Pair:
    """The index-th image-text pair of a split, always the same.

    Splits: "train" and "val" (no held-out combination), "test" (an eighth of the scenes with one), and "unrestricted"
    (every combination alike, for whoever judges pictures and takes no part in making them).
    """
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(_SPLITS)}")
    rng = np.random.default_rng((20220413, _SPLITS[split], index))
    hold_out = "allow" if split == "unrestricted" else "forbid"
    if split == "test" and rng.random() < SHARE_OF_HELD_OUT:
        hold_out = "require"
    scene = _draw_scene(rng, hold_out)
    mentioned = _draw_mentioned(rng, scene)
    return Pair(scene, caption_of(mentioned), mentioned)


def scene_for(mentioned: dict[str, Any], seed: int) -> Scene:
    """Another scene that the same caption describes: what it does not mention is drawn afresh."""
    rng = np.random.default_rng((20220413, 3, seed))
    named = mentioned["objects"]
    count = mentioned["count"] or (2 if rng.random() < _share_of_pairs_unsaid() else 1)
    relation = mentioned["relation"] or _choose(rng, RELATIONS)
    looks = [_draw_look(rng, named[k] if k < len(named) else {}) for k in range(count)]
    if count == 2 and relation in ("below", "right of"):
        looks.reverse()
    axis = None if count == 1 else ("vertical" if relation in ("above", "below") else "horizontal")
    return _place(rng, looks, axis, mentioned["background"] or _choose(rng, BACKGROUNDS))


def describe(scene: Scene) -> dict[str, Any]:
    """Everything that a caption could say: {objects: [{shape, colour, size}], background, relation, count}.

    `relation` says how objects[0] lies to objects[1]; None for a lone object.
    """
    relation = {None: None, "vertical": "above", "horizontal": "left of"}[scene.axis]
    objects = [{"shape": o.shape, "colour": o.colour, "size": o.size} for o in scene.objects]
    return {"objects": objects, "background": scene.background, "relation": relation, "count": len(objects)}


def attributes(scene: Scene) -> np.ndarray:
    """(9,) int64 class of each column of `ATTRIBUTES`; -1 where it does not apply."""
    values: list[str | None] = ["two" if len(scene.objects) == 2 else "one", scene.axis, scene.background]
    for slot in range(2):
        here = scene.objects[slot] if slot < len(scene.objects) else None
        values += [here.shape, here.colour, here.size] if here else [None] * 3
    pairs = zip(ATTRIBUTES.values(), values, strict=True)
    return np.array([-1 if v is None else names.index(v) for names, v in pairs], dtype=np.int64)


def caption_of(mentioned: dict[str, Any]) -> str:
    """The caption that says what `mentioned` holds, and nothing else."""
    phrases = [" ".join(filter(None, (o["size"], o["colour"], o["shape"] or "shape"))) for o in mentioned["objects"]]
    article = "one" if mentioned["count"] == 1 else "a"
    caption = f" {mentioned['relation'] or 'and'} a ".join(phrases)
    background = f" on a {mentioned['background']} background" if mentioned["background"] else ""
    return f"{article} {caption}{background}"


def render(scene: Scene, size: int) -> np.ndarray:
    """(size, size, 3) uint8 picture of a scene, anti-aliased over one pixel by signed distances."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    rgb = np.asarray(_BACKGROUND_RGB[scene.background], np.float32) * scene.background_shade
    picture = np.broadcast_to(rgb, (size, size, 3)).copy()
    for item in scene.objects:
        reach = 1.45 * item.radius + 4 / size  # Beyond this, nothing of the shape: render its window only.
        cols = slice(*np.searchsorted(grid, (item.x - reach, item.x + reach)))
        rows = slice(*np.searchsorted(grid, (item.y - reach, item.y + reach)))
        distance = _signed_distance(item, grid[cols][None, :] - item.x, grid[rows][:, None] - item.y)
        cover = np.clip(0.5 - distance * (size / 2), 0, 1)[..., None]
        colour = np.asarray(_COLOUR_RGB[item.colour], np.float32) * item.shade
        picture[rows, cols] += cover * (colour - picture[rows, cols])
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _signed_distance(item: SceneObject, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Distance to the shape's edge, negative inside. The shapes are scaled to look equally large."""
    cos, sin, r = np.cos(item.angle), np.sin(item.angle), item.radius
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    if item.shape == "circle":
        return np.hypot(x, y) - r
    if item.shape == "square":
        return _box(x, y, 0.86 * r, 0.86 * r)
    if item.shape == "cross":
        return np.minimum(_box(x, y, r, 0.34 * r), _box(x, y, 0.34 * r, r))
    # An upright equilateral triangle: the largest of the distances to its three sides, whose inradius is 0.6 r.
    sides = (y, -0.5 * y + 0.8660254 * x, -0.5 * y - 0.8660254 * x)
    return np.maximum.reduce(np.broadcast_arrays(*sides)) - 0.6 * r


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    qx, qy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)


def _share_of_pairs_unsaid() -> float:
    """How often a caption that names one object and no count belongs to a scene of two."""
    two, one = SHARE_OF_PAIRS * (1 - KEEP["second"]), (1 - SHARE_OF_PAIRS) * (1 - KEEP["count"])
    return two / (two + one)


def _choose(rng: np.random.Generator, names: tuple[Any, ...]) -> Any:
    return names[int(rng.integers(len(names)))]


def _draw_look(rng: np.random.Generator, named: dict[str, str | None]) -> tuple[str, str, str]:
    drawn = (_choose(rng, SHAPES), _choose(rng, COLOURS), _choose(rng, SIZES))
    shape, colour, size = (named.get(k) or d for k, d in zip(("shape", "colour", "size"), drawn, strict=True))
    return shape, colour, size


def _draw_scene(rng: np.random.Generator, hold_out: str) -> Scene:
    count = 2 if rng.random() < SHARE_OF_PAIRS else 1
    axis = _choose(rng, AXES) if count == 2 else None
    while True:  # Rejection keeps the other attributes uniform.
        looks = [_draw_look(rng, {}) for _ in range(count)]
        if hold_out == "require":
            colour, shape = _choose(rng, HELD_OUT)
            looks[int(rng.integers(count))] = (shape, colour, _choose(rng, SIZES))
            break
        if hold_out == "allow" or not any((colour, shape) in HELD_OUT for shape, colour, _ in looks):
            break
    return _place(rng, looks, axis, _choose(rng, BACKGROUNDS))


def _place(rng: np.random.Generator, looks: list[tuple[str, str, str]], axis: str | None, background: str) -> Scene:
    objects = []
    for slot, (shape, colour, size) in enumerate(looks):
        radius = RADIUS[size] * (ALONE if axis is None else 1.0)
        along = (slot - 0.5) + rng.uniform(-1, 1) * (0.48 - radius) if axis else rng.uniform(-1, 1) * MAX_SHIFT
        across = rng.uniform(-1, 1) * MAX_SHIFT
        x, y = (across, along) if axis == "vertical" else (along, across)
        angle, shade = rng.uniform(-MAX_ANGLE, MAX_ANGLE), rng.uniform(0.85, 1.0)
        objects.append(SceneObject(shape, colour, size, x, y, radius, angle, shade))
    return Scene(tuple(objects), axis, background, rng.uniform(0.92, 1.0))


def _draw_mentioned(rng: np.random.Generator, scene: Scene) -> dict[str, Any]:
    truth = describe(scene)
    kept = {name: rng.random(2) < share for name, share in KEEP.items()}
    if truth["count"] == 2 and rng.random() < 0.5:  # Either object may come first.
        truth["objects"].reverse()
        truth["relation"] = {"above": "below", "left of": "right of"}[truth["relation"]]
    alone = truth["count"] == 1 or not kept["second"][0]
    objects = [
        {key: value if kept[key][slot] else None for key, value in item.items()}
        for slot, item in enumerate(truth["objects"][: 1 if alone else 2])
    ]
    return {
        "objects": objects,
        "background": truth["background"] if kept["background"][0] else None,
        "relation": truth["relation"] if not alone and kept["relation"][0] else None,
        # Two are mentioned by naming both; one by "one ..." instead of "a ...".
        "count": 2 if not alone else (1 if truth["count"] == 1 and kept["count"][0] else None),
    }
