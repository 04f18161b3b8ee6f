"""slerp: constant angular speed, exact ends, norms kept, and sense where there is no great circle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from modules.manipulations import slerp


def vectors(seed: int, rows: int = 5, width: int = 7) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1).acos()


@given(seed=st.integers(0, 1000), theta=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_angle_and_norm_go_linearly(seed, theta):
    a, b = vectors(seed), 3 * vectors(seed + 1)
    between, whole = slerp(a, b, theta), angle(a, b)
    assert_close(angle(a, between), theta * whole, atol=1e-6, rtol=1e-6)
    assert_close(angle(between, b), (1 - theta) * whole, atol=1e-6, rtol=1e-6)
    assert_close(between.norm(dim=1), (1 - theta) * a.norm(dim=1) + theta * b.norm(dim=1))


def test_a_quarter_turn():
    between = slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 1 / 3)
    assert_close(between, torch.tensor([[2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ends_are_exact_in_every_dtype(dtype):
    a, b = vectors(0).to(dtype).reshape(5, 1, 7), vectors(1).to(dtype).reshape(5, 1, 7)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    middle = slerp(a, b, 0.5)
    assert middle.dtype == dtype
    assert_close(middle.double(), slerp(a.double(), b.double(), 0.5), atol=1e-2, rtol=1e-2)


def test_each_row_may_have_its_own_theta():
    a, b, theta = vectors(0), vectors(1), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    rows = [slerp(a[[k]], b[[k]], float(theta[k])) for k in range(5)]
    assert_close(slerp(a, b, theta), torch.cat(rows))


def test_parallel_vectors_blend_in_norm_only():
    a = vectors(0)
    assert_close(slerp(a, 3 * a, 0.25), 1.5 * a)
    nearly = a + 1e-9 * vectors(1)
    assert_close(slerp(a, nearly, 0.5), a, atol=1e-8, rtol=0)


def test_antiparallel_vectors_go_half_round_a_fixed_circle():
    a = vectors(0)
    quarter, half = slerp(a, -a, 0.25), slerp(a, -a, 0.5)
    assert_close(angle(a, half), torch.full((5,), math.pi / 2, dtype=torch.float64))
    assert_close(angle(quarter, half), torch.full((5,), math.pi / 4, dtype=torch.float64))
    assert_close(half.norm(dim=1), a.norm(dim=1))
    assert torch.equal(half, slerp(a, -a, 0.5))


def test_a_zero_vector_takes_the_others_direction():
    a, zero = vectors(0), torch.zeros(5, 7, dtype=torch.float64)
    assert_close(slerp(zero, a, 0.25), 0.25 * a)
    assert_close(slerp(a, zero, 0.25), 0.75 * a)
    assert torch.equal(slerp(zero, zero, 0.5), zero)


@pytest.mark.parametrize(
    ("a", "b", "theta", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), 1.1, "theta must lie"),
        (torch.ones(2, 3), torch.ones(2, 3), float("nan"), "theta must lie"),
        (torch.ones(2, 3), torch.ones(2, 4), 0.5, "one shape"),
        (torch.ones(3), torch.ones(3), 0.5, "one shape"),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3), 0.5, "floating-point"),
    ],
)
def test_what_cannot_be_blended_is_refused(a, b, theta, message):
    with pytest.raises(ValueError, match=message):
        slerp(a, b, theta)
