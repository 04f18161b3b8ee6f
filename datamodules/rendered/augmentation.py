"""Augmented copies of drawings: turned, mirrored, scaled and shifted vectors, rendered like the drawings themselves."""

from __future__ import annotations

import math

import numpy as np

TURN = 15.0
"""Degrees that a copy is turned by at most, to either side."""
SMALLEST = 0.75
"""Share of its width, and of its height, that a copy keeps at least."""


def placement(centre: tuple[float, float], side: float, seed: tuple[int, ...]) -> str:
    """A random map of a square view into itself, as SVG's transform writes it: "matrix(a b c d e f)".

    Mirrored in one case of two, turned by up to `TURN`, width and height scaled apart to between `SMALLEST` and 1, and
    shifted by as much as the scaling left free. These are geometric augmentations of EDM's (2206.00364, appendix F.2).

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
