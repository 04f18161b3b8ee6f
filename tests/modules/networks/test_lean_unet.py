"""The lean U-Net: its way down and up by hand, and every condition has an effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.networks.lean_unet import LeanUNet, make_unet
from modules.networks.unet import AttentionBlock, UNet, UNetConfig

CONFIG = UNetConfig(
    channels=8,
    channel_multipliers=(1, 2, 4),
    depth=1,
    attention_resolutions=(4,),
    head_channels=8,
    image_size=16,
    body="lean",
    middle_depth=3,
)


def lean(config=CONFIG, context_width=None):
    torch.manual_seed(0)
    return LeanUNet(config, 3, 3, context_width).eval()


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(2, 3, 16, 16, generator=g),
        "t": torch.tensor([3, 900]),
        "emb": torch.randn(2, 32, generator=g),
        "context": torch.randn(2, 5, 6, generator=g),
        "spatial": torch.randn(2, 32, 4, 4, generator=g),
    }


def test_it_starts_as_zero(inputs):
    out = lean()(inputs["x"], inputs["t"])
    assert out.shape == inputs["x"].shape
    assert not out.any()


def test_down_the_middle_and_up_by_hand(tiny, inputs):
    """Two levels down, each with one block and a skip; three blocks with attention; two levels up."""
    network = tiny.randomise(lean(context_width=6))
    emb = network.time(inputs["t"]) + inputs["emb"]

    def block(stage, h):
        h = stage.residual(h, emb)
        return h if stage.attend is None else stage.attend(h, inputs["context"])

    first = block(network.down[0][0], network.first(inputs["x"]))
    second = block(network.down[1][0], network.shrink[0].mix(F.pixel_unshuffle(first, 2)))
    h = network.shrink[1].mix(F.pixel_unshuffle(second, 2)) + inputs["spatial"]
    for stage in network.middle:
        h = block(stage, h)
    h = block(network.up[0][0], torch.cat([F.pixel_shuffle(network.grow[0].mix(h), 2), second], dim=1))
    h = block(network.up[1][0], torch.cat([F.pixel_shuffle(network.grow[1].mix(h), 2), first], dim=1))
    expected = network.last(F.silu(network.last_norm(h)))
    assert expected.std() > 0.01
    assert_close(network(**inputs), expected)


@pytest.mark.parametrize("name", ["x", "t", "emb", "context", "spatial"])
def test_every_condition_has_an_effect(tiny, inputs, name):
    network = tiny.randomise(lean(context_width=6))
    other = {**inputs, name: inputs[name].flip(0)}
    assert ((network(**inputs) - network(**other)).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize(
    ("resolutions", "depth", "sides"), [((), 1, []), ((4,), 1, [4, 4, 4]), ((8,), 2, [8, 8, 4, 4, 4, 8, 8])]
)
def test_attention_at_the_stated_resolutions_and_the_lowest(inputs, resolutions, depth, sides):
    network = lean(replace(CONFIG, attention_resolutions=resolutions, depth=depth))
    seen = []
    for module in network.modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[-1]))
    network(inputs["x"], inputs["t"])
    assert seen == sides


@pytest.mark.parametrize("body", ["lean", "adm"])
@pytest.mark.parametrize("side", [16, 32])
def test_the_map_is_added_at_the_lowest_resolution(tiny, inputs, body, side):
    """Of another size than the network is made for, the map is stretched."""
    config = replace(CONFIG, body=body, middle_depth=3 if body == "lean" else 2)
    network = tiny.randomise(make_unet(config, 3, 3)).eval()
    seen = []
    network.middle[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = F.interpolate(inputs["x"], size=side)
    network(x, inputs["t"])
    network(x, inputs["t"], spatial=inputs["spatial"])
    expected = F.interpolate(inputs["spatial"], size=side // 4, mode="bilinear") if side > 16 else inputs["spatial"]
    assert_close(seen[1] - seen[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("side", [(16, 16), (32, 16)])
def test_it_runs_at_any_size_that_its_downsampling_divides(tiny, patch, side):
    network = tiny.randomise(lean(replace(CONFIG, patch_size=patch)))
    assert network.multiple == 4 * patch
    assert network(torch.randn(1, 3, *side), torch.tensor([5])).std() > 0.01
    with pytest.raises(ValueError, match=f"multiples of {4 * patch}, not"):
        network(torch.randn(1, 3, 18, 16), torch.tensor([5]))


def test_checkpointing_recomputes_and_changes_nothing(tiny, inputs):
    plain, saving = (
        tiny.randomise(lean(replace(CONFIG, checkpointing=flag), context_width=6)).train() for flag in (False, True)
    )
    counts = []
    for network in (plain, saving):
        calls = []
        network.middle[0].residual.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        network(**inputs).square().sum().backward()
        counts.append(len(calls))
    assert counts == [1, 2]
    for first, second in zip(plain.parameters(), saving.parameters(), strict=True):
        assert_close(first.grad, second.grad, atol=1e-5, rtol=1e-4)


def test_channels_last_changes_the_layout_only(tiny, inputs):
    network = tiny.randomise(lean(context_width=6))
    expected = network(**inputs)
    network.to(memory_format=torch.channels_last)
    x = inputs["x"].contiguous(memory_format=torch.channels_last)
    assert_close(network(**{**inputs, "x": x}), expected, atol=1e-4, rtol=1e-4)


def test_the_body_is_the_configs():
    assert isinstance(make_unet(CONFIG, 3, 3), LeanUNet)
    assert isinstance(make_unet(replace(CONFIG, body="adm", middle_depth=2), 3, 3), UNet)
    with pytest.raises(ValueError, match="only a lean body"):
        make_unet(replace(CONFIG, body="adm"), 3, 3)
    with pytest.raises(ValueError, match="middle_depth is 0: give 1 or more"):
        make_unet(replace(CONFIG, middle_depth=0), 3, 3)
