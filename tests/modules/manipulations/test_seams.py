"""The seam of an inpainted part: closed forms, an exact solver, and what must not be touched."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from modules.manipulations.seams import membrane, without_seam


def laplace(values, fixed):
    """The harmonic interpolation by a dense linear system, one (H, W) image at a time."""
    h, w = values.shape
    matrix, right = torch.eye(h * w, dtype=torch.float64), torch.zeros(h * w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            k = y * w + x
            if fixed[y, x]:
                right[k] = values[y, x]
                continue
            near = [(y + a, x + b) for a, b in ((0, 1), (0, -1), (1, 0), (-1, 0))]
            near = [(a, b) for a, b in near if 0 <= a < h and 0 <= b < w]
            for a, b in near:
                matrix[k, a * w + b] = -1 / len(near)
    return torch.linalg.solve(matrix, right).reshape(h, w)


@pytest.mark.parametrize("size", [(16, 16), (13, 21)])
def test_the_membrane_solves_laplaces_equation(size):
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(1, 1, *size, generator=generator) < 0.1
    fixed[..., 0, 0] = True
    values = torch.randn(1, 1, *size, generator=generator, dtype=torch.float64)
    exact = laplace(values[0, 0], fixed[0, 0])
    assert_close(membrane(values, fixed, sweeps=400)[0, 0], exact, atol=1e-3, rtol=0)
    few = membrane(values, fixed)[0, 0]
    assert float((few - exact).abs().max()) < 0.1 * float(values[fixed].max() - values[fixed].min())


def test_between_two_columns_the_membrane_is_a_ramp():
    values, fixed = torch.zeros(1, 2, 4, 9, dtype=torch.float64), torch.zeros(1, 1, 4, 9, dtype=torch.bool)
    fixed[..., 0] = fixed[..., 8] = True
    values[:, :, :, 8] = torch.tensor([1.0, -2.0])[:, None]
    ramp = torch.arange(9, dtype=torch.float64) / 8
    assert_close(membrane(values, fixed, sweeps=300), torch.stack([ramp, -2 * ramp])[None, :, None].expand(1, 2, 4, 9))


def test_nothing_fixed_is_no_correction():
    assert not membrane(torch.ones(2, 3, 5, 8), torch.zeros(2, 1, 5, 8, dtype=torch.bool)).any()


def half(side=16):
    """A smooth picture and a mask that keeps its left half."""
    known = torch.linspace(-0.5, 0.5, side)[:, None].expand(3, side, side)[None]
    keep = torch.zeros(1, 1, side, side)
    keep[..., : side // 2] = 1
    return known.contiguous(), keep


def test_a_shade_that_is_off_by_a_constant_is_put_right():
    known, keep = half()
    drawn = torch.where(keep > 0, known, known + torch.tensor([0.03, -0.02, 0.05])[:, None, None])
    assert_close(without_seam(drawn, known, keep), known, atol=1e-5, rtol=0)


def test_what_is_known_stays_to_the_bit_and_what_it_hides_has_no_effect():
    known, keep = half()
    drawn = torch.where(keep > 0, known, known + 0.1)
    made = without_seam(drawn, known, keep)
    assert torch.equal(made[..., :8], drawn[..., :8])
    hidden = torch.where(keep > 0, known, torch.full_like(known, 7.0))
    assert torch.equal(without_seam(drawn, hidden, keep), made)


def test_an_edge_at_the_border_does_not_bleed_into_the_hole():
    known, keep = half()
    drawn = torch.where(keep > 0, known, known + 0.04)
    drawn[..., 4:8, 8:] = 0.9  # Something else begins at the border.
    made = without_seam(drawn, known, keep)
    assert_close(made[..., :4, :], known[..., :4, :], atol=2e-3, rtol=0)
    assert_close(made[..., 4:8, 8:], torch.full((1, 3, 4, 8), 0.86), atol=2e-3, rtol=0)
    through = without_seam(drawn, known, keep, edge=2.0)
    assert float((through[..., 4:8, 12] - 0.86).abs().max()) > 0.1


def test_without_known_pixels_nothing_changes():
    known, keep = half()
    drawn = torch.rand(1, 3, 16, 16)
    assert torch.equal(without_seam(drawn, known, torch.zeros_like(keep)), drawn)
