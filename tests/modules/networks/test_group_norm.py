"""Our group norm in channels_last beside torch's own: outputs and all gradients, with and without scale and shift."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad
from torch.testing import assert_close

import modules.networks.group_norm
from modules.networks.group_norm import GroupNorm, to_channels_last
from modules.training.stage import Stage, TrainingConfig

SHAPES = [(3, 12, 5, 7), (1, 8, 4, 4), (2, 12, 32, 33)]
"""Few positions; one sample; more positions than MANY_POSITIONS."""


@pytest.fixture(autouse=True)
def small_tensors_too(monkeypatch):
    monkeypatch.setattr(modules.networks.group_norm, "FEW_NUMBERS", 0)


def parts(shape, *, modulated, offset=0.0):
    """A norm with random weights, features, scale and shift, and a gradient."""
    torch.manual_seed(0)
    norm = to_channels_last(GroupNorm(4, shape[1]), fast_norms=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, vectors = torch.randn(shape) + offset, torch.randn(2, shape[0], shape[1])
    return norm, x, tuple(vectors) if modulated else (), torch.randn(shape)


def by_torch(norm, x, scale=None, shift=None):
    """The definition, in float64 through torch's contiguous kernel."""
    y = F.group_norm(x, norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps)
    return y if scale is None else y * (1 + scale)[:, :, None, None] + shift[:, :, None, None]


def counted(monkeypatch):
    """A list that grows by one with each use of our own kernel."""
    uses, real = [], modules.networks.group_norm._ChannelsLastNorm.apply
    monkeypatch.setattr(
        modules.networks.group_norm._ChannelsLastNorm, "apply", lambda *given: uses.append(1) or real(*given)
    )
    return uses


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_torchs(monkeypatch, shape, layout, modulated):
    norm, x, vectors, gradient = parts(shape, modulated=modulated)
    uses = counted(monkeypatch)
    given = [tensor.requires_grad_() for tensor in (x.contiguous(memory_format=layout), *vectors)]
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, *vectors)]
    found, expected = norm(*given), by_torch(norm, *exact)
    assert len(uses) == (layout == torch.channels_last)
    assert found.is_contiguous(memory_format=layout)
    assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    found = grad(found, (*given, norm.weight, norm.bias), gradient.contiguous(memory_format=layout))
    expected = grad(expected, (*exact, norm.weight, norm.bias), gradient.double())
    for one, other in zip(found, expected, strict=True):
        # Sums of up to 2 x 1,056 products, each rounded to 6e-8 of itself.
        assert_close(one.double(), other.double(), atol=2e-4, rtol=1e-4)


def test_a_mean_far_from_zero_costs_no_digits():
    norm, x, _, _ = parts((2, 8, 6, 6), modulated=False, offset=1000.0)
    found = norm(x.contiguous(memory_format=torch.channels_last))
    # 1,000 is rounded to 6e-5 in float32; the difference of sums of squares would be wrong by a tenth.
    assert_close(found.double(), by_torch(norm, x.double()), atol=1e-3, rtol=1e-3)


def test_a_gradient_in_another_layout_is_taken():
    norm, x, _, gradient = parts((2, 8, 6, 6), modulated=False)
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    one, other = (
        grad(norm(last), last, gradient.contiguous(memory_format=layout))[0]
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert torch.equal(one, other)


def test_large_pictures_go_through_torchs_kernel_where_no_gradient_is_wanted(monkeypatch):
    norm, x, _, _ = parts((2, 12, 32, 33), modulated=False)
    uses, last = counted(monkeypatch), x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found = norm(last)
    assert not uses
    assert torch.equal(found, F.group_norm(last, 4, norm.weight, norm.bias, norm.eps))


def test_a_norm_of_a_network_that_is_not_in_channels_last_is_torchs_to_the_bit(monkeypatch):
    """Pictures often come in channels_last layout, also to networks whose weights are contiguous."""
    norm, x, vectors, _ = parts((2, 8, 4, 4), modulated=True)
    uses, norm.sums = counted(monkeypatch), False
    last = x.contiguous(memory_format=torch.channels_last)
    plain = F.group_norm(last, 4, norm.weight, norm.bias, norm.eps)
    scale, shift = (vector[:, :, None, None] for vector in vectors)
    assert torch.equal(norm(last, *vectors), torch.addcmul(shift, plain, 1 + scale))
    assert not uses


def test_small_tensors_go_through_torchs_kernel(monkeypatch):
    norm, x, _, _ = parts((2, 8, 4, 4), modulated=False)
    uses = counted(monkeypatch)
    monkeypatch.setattr(modules.networks.group_norm, "FEW_NUMBERS", x.numel() + 1)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(norm(last), F.group_norm(last, 4, norm.weight, norm.bias, norm.eps))
    assert not uses


def test_half_precision_scales_in_float32():
    norm = GroupNorm(4, 8).bfloat16()
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.ones_(norm.bias)
    scale, shift = (torch.full((2, 8), value, dtype=torch.bfloat16) for value in (2**-10, -1.0))
    # (0 + 1)(1 + scale) - 1: in bfloat16 1 + scale would be 1.
    assert_close(norm(torch.randn(2, 8, 4, 4).bfloat16(), scale, shift).float(), torch.full((2, 8, 4, 4), 2**-10))


def test_a_training_config_chooses_the_sums():
    for fast in (False, True):
        stage = Stage(GroupNorm(2, 4), torch.optim.SGD, TrainingConfig(channels_last=True, fast_norms=fast))
        assert stage.network.sums is fast and stage.averaged.sums is fast
