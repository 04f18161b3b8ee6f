"""The upsamplers' network: no attention, any size, and a residual that starts at the enlarged image."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from modules.networks.unet import AttentionBlock


@pytest.fixture
def low():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noised(enlarged):
    return torch.randn(enlarged.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 700])


def test_a_fresh_residual_returns_the_enlarged_image(tiny, low):
    network = tiny.make_network("upsampler", residual=True).eval()
    enlarged = network.enlarge(low)
    assert torch.equal(network(*noised(enlarged), enlarged), enlarged)
    plain = tiny.make_network("upsampler", residual=False).eval()
    assert not plain(*noised(enlarged), enlarged).any()


def test_attention_is_refused(tiny):
    unet = {**tiny.UNET, "attention_resolutions": [8, 4]}
    with pytest.raises(ValueError, match=r"the upsamplers have no attention; attention_resolutions is \(8, 4\)"):
        tiny.make_network("upsampler", unet=unet)
    assert not [m for m in tiny.make_network("upsampler").modules() if isinstance(m, AttentionBlock)]


@pytest.mark.parametrize("side", [(8, 8), (16, 16), (4, 12)])
def test_it_runs_at_sizes_that_it_was_not_trained_at(tiny, side):
    network = tiny.randomise(tiny.make_network("upsampler"))
    enlarged = network.enlarge(torch.rand(2, 3, *side) * 2 - 1)
    out = network(*noised(enlarged), enlarged)
    assert out.shape == (2, 3, 2 * side[0], 2 * side[1])
    assert not torch.equal(out, enlarged)


def test_it_sees_noised_image_timestep_and_condition(tiny, low):
    network = tiny.randomise(tiny.make_network("upsampler", residual=False))
    enlarged = network.enlarge(low)
    x_t, t = noised(enlarged)
    base = network(x_t, t, enlarged)
    for other in ((-x_t, t, enlarged), (x_t, t.flip(0), enlarged), (x_t, t, -enlarged)):
        assert ((network(*other) - base).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_enlarging(tiny, mode):
    network = tiny.make_network("upsampler", interpolation=mode, factor=4)
    flat = network.enlarge(torch.full((1, 3, 4, 4), 0.25))
    assert_close(flat, torch.full((1, 3, 16, 16), 0.25))
    edge = torch.ones(1, 1, 4, 4)
    edge[..., :2] = -1
    large = network.enlarge(edge)
    assert large.abs().max() <= 1  # bicubic overshoots
    assert_close(large[0, 0, 0], -large[0, 0, 0].flip(0))  # pixel centres: no shift
    assert large[0, 0, 0].diff().min() >= 0


@pytest.mark.parametrize("residual", [True, False])
def test_learned_sigma_doubles_the_channels(tiny, low, residual):
    """The residual is added to the prediction, never to the variance."""
    network = tiny.make_network("upsampler", residual=residual, learned_sigma=True)
    enlarged = network.enlarge(low)
    out = network(*noised(enlarged), enlarged)
    assert torch.equal(out[:, :3], enlarged if residual else torch.zeros_like(enlarged))
    assert torch.equal(out[:, 3:], torch.zeros_like(enlarged))


def test_nothing_is_mutated(tiny, low):
    network = tiny.randomise(tiny.make_network("upsampler"))
    before, enlarged = low.clone(), network.enlarge(low)
    copy = enlarged.clone()
    x_t, t = noised(enlarged)
    network(x_t, t, enlarged)
    assert torch.equal(low, before)
    assert torch.equal(enlarged, copy)
    assert torch.equal(x_t, noised(enlarged)[0])
