"""The U-Net: zero at first, attention where it was asked for, and every condition has an effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.networks.blocks import upsampled_conv
from modules.networks.unet import AttentionBlock, ResidualBlock, UNet, UNetConfig, group_norm

CONFIG = UNetConfig(
    channels=8, channel_multipliers=(1, 2, 2), depth=1, attention_resolutions=(8,), head_channels=8, image_size=16
)


def unet(config=CONFIG, context_width=None, **options):
    torch.manual_seed(0)
    return UNet(config, 3, 3, context_width, **options).eval()


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(2, 3, 16, 16, generator=g),
        "t": torch.tensor([3, 900]),
        "emb": torch.randn(2, 32, generator=g),
        "context": torch.randn(2, 5, 6, generator=g),
    }


@pytest.mark.parametrize("patch", [1, 2])
def test_it_starts_as_zero(inputs, patch):
    out = unet(replace(CONFIG, patch_size=patch))(inputs["x"], inputs["t"])
    assert out.shape == inputs["x"].shape
    assert not out.any()


@pytest.mark.parametrize("side", [(16, 16), (32, 32), (8, 24)])
@pytest.mark.parametrize("patch", [1, 2])
def test_it_runs_at_any_size_that_its_downsampling_divides(tiny, side, patch):
    network = tiny.randomise(unet(replace(CONFIG, patch_size=patch)))
    out = network(torch.randn(1, 3, *side), torch.tensor([5]))
    assert out.shape == (1, 3, *side)
    assert out.std() > 0.01


@pytest.mark.parametrize(("patch", "side", "multiple"), [(1, (18, 16), 4), (1, (16, 6), 4), (2, (20, 16), 8)])
def test_other_sizes_are_refused(patch, side, multiple):
    network = unet(replace(CONFIG, patch_size=patch))
    with pytest.raises(ValueError, match=rf"multiples of {multiple}, not \({side[0]}, {side[1]}\)"):
        network(torch.randn(1, 3, *side), torch.tensor([5]))


@pytest.mark.parametrize(
    ("resolutions", "patch", "sides"),
    [((), 1, []), ((8,), 1, [8, 4, 8, 8]), ((16, 4), 1, [16, 4, 4, 4, 4, 16, 16]), ((8,), 2, [8, 2, 8, 8])],
)
def test_attention_only_at_the_stated_resolutions(inputs, resolutions, patch, sides):
    """Down, middle (4 or, with patches, 2), up: depth 1 has one block down and two up. Without resolutions, nowhere."""
    network = unet(replace(CONFIG, attention_resolutions=resolutions, patch_size=patch))
    seen = []
    for module in network.modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[-1]))
    network(inputs["x"], inputs["t"])
    assert seen == sides


@pytest.mark.parametrize("name", ["x", "t", "emb", "context"])
def test_every_condition_has_an_effect(tiny, inputs, name):
    network = tiny.randomise(unet(context_width=6))
    other = {**inputs, name: inputs[name].flip(0)}
    assert ((network(**inputs) - network(**other)).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def test_the_embedding_is_added_to_that_of_the_timestep(tiny, inputs):
    network = tiny.randomise(unet())
    assert network.emb_width == 4 * CONFIG.channels
    x, t = inputs["x"], inputs["t"]
    assert torch.equal(network(x, t), network(x, t, torch.zeros(2, 32)))
    shift = network.time(t.flip(0)) - network.time(t)
    assert_close(network(x, t, shift), network(x, t.flip(0)), atol=1e-5, rtol=1e-4)


def test_the_context_has_no_order(tiny, inputs):
    """Its tokens join the keys and values as they are; what order they have, the text encoder has put into them."""
    network = tiny.randomise(unet(context_width=6))
    turned = {**inputs, "context": inputs["context"].flip(1)}
    assert_close(network(**inputs), network(**turned), atol=1e-5, rtol=1e-4)


def test_a_context_is_ignored_without_attention(tiny, inputs):
    network = tiny.randomise(unet(replace(CONFIG, attention_resolutions=()), context_width=6))
    assert torch.equal(network(**inputs), network(**{**inputs, "context": None}))


def test_an_image_does_not_depend_on_the_others_of_its_batch(tiny, inputs):
    network = tiny.randomise(unet(context_width=6))
    alone = network(**{name: tensor[:1] for name, tensor in inputs.items()})
    assert_close(network(**inputs)[:1], alone, atol=1e-5, rtol=1e-4)


def test_nothing_is_mutated(tiny, inputs):
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    tiny.randomise(unet(context_width=6))(**inputs)
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name]), name


def test_channels_last_changes_the_layout_only(tiny, inputs):
    network = tiny.randomise(unet(replace(CONFIG, patch_size=2), context_width=6))
    expected = network(**inputs)
    network.to(memory_format=torch.channels_last)
    x = inputs["x"].contiguous(memory_format=torch.channels_last)
    seen = []
    network.first.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].is_contiguous(memory_format=torch.channels_last))
    )
    assert_close(network(**{**inputs, "x": x}), expected, atol=1e-4, rtol=1e-4)
    assert seen == [True]


def test_checkpointing_recomputes_and_changes_nothing(tiny, inputs):
    plain, saving = (
        tiny.randomise(unet(replace(CONFIG, checkpointing=flag), context_width=6)).train() for flag in (False, True)
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


def test_dropout_is_for_training(tiny, inputs):
    network = tiny.randomise(unet(replace(CONFIG, dropout=0.5)))
    x, t = inputs["x"], inputs["t"]
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize("resample", ["none", "down", "up"])
def test_a_fresh_residual_block_is_its_skip(resample):
    block = ResidualBlock(8, 8, 4, resample=resample)
    x = torch.randn(2, 8, 4, 4)
    expected = {"none": x, "down": F.avg_pool2d(x, 2), "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3)}
    assert torch.equal(block(x, torch.randn(2, 4)), expected[resample])


def test_the_embedding_scales_and_shifts_the_second_norm():
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 4)
    torch.nn.init.dirac_(block.conv_2.weight)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 4)
    scale, shift = block.emb(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
    inner = block.norm_2(block.conv_1(F.silu(block.norm_1(x)))) * (1 + scale) + shift
    assert_close(block(x, emb), x + F.silu(inner))


def test_a_small_scale_is_not_rounded_away_in_bfloat16():
    """Every scale 0.003: 1 + 0.003 is 1 in bfloat16, so the mean of what it multiplies must tell it."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 4)
    torch.nn.init.dirac_(block.conv_2.weight)
    torch.nn.init.zeros_(block.emb.weight)
    x, emb = torch.randn(64, 8, 16, 16), torch.randn(64, 4)
    seen = []
    block.conv_2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double().mean()))
    for scale in (0.0, 0.003):
        with torch.no_grad():
            block.emb.bias.copy_(torch.cat([torch.full((8,), scale), torch.full((8,), 4.0)]))
        block.norm_2.bias.data.fill_(4.0)  # all positive, where SiLU is nearly the identity
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            block(x, emb)
    assert float(seen[1] - seen[0]) == pytest.approx(0.003 * 4, rel=0.1)


@pytest.mark.parametrize("with_context", [True, False])
def test_attention_over_positions_and_context(with_context):
    torch.manual_seed(0)
    block = AttentionBlock(16, 8, 6 if with_context else None)
    assert block.heads == 2
    x, context = torch.randn(2, 16, 3, 4), torch.randn(2, 5, 6) if with_context else None
    assert torch.equal(block(x, context), x)  # starts as the identity
    torch.nn.init.dirac_(block.out.weight)
    q, k, v = (y.flatten(2).transpose(1, 2) for y in block.qkv(block.norm(x)).chunk(3, dim=1))
    if with_context:
        extra_k, extra_v = block.context_kv(context).chunk(2, dim=2)
        k, v = torch.cat([extra_k, k], dim=1), torch.cat([extra_v, v], dim=1)
    heads = [
        (q[..., c] @ k[..., c].transpose(1, 2) / 8**0.5).softmax(dim=2) @ v[..., c] for c in (slice(8), slice(8, 16))
    ]
    expected = torch.cat(heads, dim=2).transpose(1, 2).reshape(x.shape)
    assert_close(block(x, context), x + expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fast_attention_is_taken(tiny, inputs, layout):
    network = tiny.randomise(unet(context_width=6)).to(memory_format=layout)
    x = inputs["x"].contiguous(memory_format=layout)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network(**{**inputs, "x": x})
    ran = {e.key: e.count for e in profile.key_averages() if e.key.startswith("aten::_scaled_dot_product")}
    assert ran == {"aten::_scaled_dot_product_flash_attention_for_cpu": 4}


def test_without_gradients_the_output_is_the_same(tiny, inputs):
    """There the activations are computed in place."""
    network = tiny.randomise(unet(context_width=6))
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    with torch.no_grad():
        fast = network(**inputs)
    assert_close(fast, network(**inputs), atol=1e-5, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in inputs.items())


@pytest.mark.parametrize(
    ("channels", "groups"), [(512, 32), (128, 32), (96, 16), (32, 8), (24, 4), (8, 2), (6, 1), (3, 1)]
)
def test_group_norm_has_32_groups_of_4_channels_or_more(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_the_widths_are_those_of_the_table():
    """As in ADM: one residual block more on the way up, and each of them sees a skip from the way down."""
    network = unet(replace(CONFIG, depth=2))
    assert [stage.residual.conv_1.in_channels for stage in network.down] == [8, 8, 8, 8, 16, 16, 16, 16]
    assert [stage.residual.conv_1.out_channels for stage in network.down] == [8, 8, 8, 16, 16, 16, 16, 16]
    plain = [stage for stage in network.up if stage.residual.resample == "none"]
    assert [stage.residual.conv_1.in_channels for stage in plain] == [32, 32, 32, 32, 32, 24, 24, 16, 16]
    assert sum(stage.residual.resample == "up" for stage in network.up) == 2


@pytest.mark.parametrize("size", [(2, 3), (16, 20)])
def test_an_enlarging_convolution_is_that_of_the_enlarged_image(size):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    out = upsampled_conv(x, conv)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), conv.weight, conv.bias, padding=1)
    assert_close(out, expected)
    wanted = (x, conv.weight, conv.bias)
    upstream = torch.randn_like(out)
    assert_close(torch.autograd.grad(out, wanted, upstream), torch.autograd.grad(expected, wanted, upstream))


def test_large_images_are_enlarged_by_the_cheaper_convolution(monkeypatch):
    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    monkeypatch.setattr(F, "interpolate", lambda *_, **__: pytest.fail("the slow path was taken"))
    assert upsampled_conv(torch.zeros(1, 3, 16, 16), conv).shape == (1, 5, 32, 32)
