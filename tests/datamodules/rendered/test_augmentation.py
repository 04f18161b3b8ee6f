"""Augmented copies: the bounds of their maps, and that what is rendered is what the map says."""

import re
from importlib.util import find_spec

import numpy as np
import pytest

from datamodules.rendered import iconify
from datamodules.rendered.augmentation import SMALLEST, TURN, copy_of, placement
from datamodules.rendered.cache import hash_of

CENTRE, SIDE = (30.0, 12.0), 16.0


def matrix(seed):
    """(linear part (2, 2), shift (2,)) of a placement."""
    written = placement(CENTRE, SIDE, (seed,))
    assert re.fullmatch(r"matrix\(.*\)", written)
    a, b, c, d, e, f = map(float, written[7:-1].split())
    return np.array([[a, c], [b, d]]), np.array([e, f])


def test_maps_mirror_turn_scale_and_shift_within_their_bounds():
    mirrored, angles, scales, shifts = [], [], [], []
    for seed in range(2000):
        linear, shift = matrix(seed)
        # linear = turn @ diag(+-wide, high): its columns are orthogonal, and their lengths are the scales.
        assert linear[:, 0] @ linear[:, 1] == pytest.approx(0, abs=1e-4)
        wide, high = np.linalg.norm(linear, axis=0)
        mirrored.append(np.linalg.det(linear) < 0)
        angles.append(np.degrees(np.arctan2(-linear[0, 1], linear[1, 1])))
        scales.append((wide, high))
        free = np.array([1 - wide, 1 - high])
        moved = (linear @ CENTRE + shift - CENTRE) / (SIDE / 2)
        shifts.extend((moved / free)[free > 0.01])  # The matrix has six digits.
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.04)
    for values, low, high in ((angles, -TURN, TURN), (scales, SMALLEST, 1), (shifts, -1, 1)):
        assert np.min(values) == pytest.approx(low, rel=0.02) and np.max(values) == pytest.approx(high, rel=0.02)
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


@pytest.mark.skipif(find_spec("resvg_py") is None, reason="the optional renderer is not installed")
@pytest.mark.parametrize("seed", range(6))
def test_a_rendered_copy_lies_where_its_map_puts_it(seed):
    """A black rectangle in the upper left: its area is multiplied by the determinant, its centre is mapped."""
    box = (CENTRE[0] - SIDE / 2, CENTRE[1] - SIDE / 4, SIDE, SIDE / 2)  # the view is the square around it
    icon = iconify.Icon("bar", '<rect x="26" y="9" width="5" height="3"/>', box, ())
    copied = copy_of(icon, seed + 1)
    a, b, c, d, e, f = map(float, copied.body.split("(")[1].split(")")[0].split())
    linear, shift = np.array([[a, c], [b, d]]), np.array([e, f])
    assert placement(CENTRE, SIDE, (hash_of(icon.body), seed + 1)) in copied.body
    dark = 1 - iconify.render(copied, 128).mean(2) / 255
    unit = SIDE / 128
    assert dark.sum() * unit**2 == pytest.approx(15 * abs(np.linalg.det(linear)), rel=0.01)
    rows, columns = np.mgrid[:128, :128] + 0.5
    centre = np.array([(columns * dark).sum(), (rows * dark).sum()]) / dark.sum() * unit + np.array(CENTRE) - SIDE / 2
    assert centre == pytest.approx(linear @ (28.5, 10.5) + shift, abs=0.02)
