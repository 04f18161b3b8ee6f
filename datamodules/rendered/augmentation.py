"""Augmented copies of drawings: mirrored, turned, scaled and shifted vectors, rendered like the drawings themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from datamodules.rendered.cache import hash_of
from datamodules.rendered.iconify import Icon

TURN = 15.0
"""Degrees that a copy is turned by at most, to either side."""
SMALLEST = 0.75
"""Share of its width, and of its height, that a copy keeps at least."""


def copy_of(icon: Icon, number: int) -> Icon:
    """The drawing's copy of a number from 1 on, always the same one."""
    left, top, width, height = icon.box
    centre = (left + width / 2, top + height / 2)
    placed = placement(centre, max(width, height), (hash_of(icon.body), number))
    return replace(icon, body=f'<g transform="{placed}">{icon.body}</g>')


def placement(centre: tuple[float, float], side: float, seed: tuple[int, ...]) -> str:
    """A random affine map of a square view, as SVG's transform writes it: "matrix(a b c d e f)".

    Width and height are scaled, each to between `SMALLEST` and 1, in half of the cases mirrored, then turned by
    up to `TURN`. The shift is at most half of what the scaling left free, so only a turned drawing reaches over the
    edge: its corners may be cut. These are geometric augmentations of EDM's (2206.00364, appendix F.2).

    Args:
        centre: of the view.
        side: of the view.
        seed: numbers >= 0 that decide the map.
    """
    draw = np.random.default_rng(seed)
    mirrored, angle = draw.random() < 0.5, math.radians(draw.uniform(-TURN, TURN))
    wide, high = draw.uniform(SMALLEST, 1.0, size=2)
    right, down = draw.uniform(-0.5, 0.5, size=2) * side * (1 - np.array([wide, high]))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag([-wide if mirrored else wide, high])
    middle = np.array(centre)
    shift = middle + np.array([right, down]) - linear @ middle
    (a, c), (b, d) = linear
    return f"matrix({' '.join(f'{value:.6g}' for value in (a, b, c, d, *shift))})"
