"""Winograd's convolutions against the direct one, and the rule that chooses between them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from fractions import Fraction
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modules.networks.convolutions import layer as layers
from modules.networks.convolutions import winograd as maps
from modules.networks.convolutions.layer import Conv3x3, is_faster, winograd_convolutions
from modules.networks.convolutions.winograd import winograd_conv
from modules.networks.lean_unet import make_unet
from modules.networks.unet import ResidualBlock, Stage, UNet, UNetConfig
from modules.placement.precision import compute_in_bfloat16


def tensors(batch: int, c_in: int, c_out: int, height: int, width: int, *, bias: bool = True) -> list[torch.Tensor]:
    """x, weight, bias and a gradient of the output, normal; the outputs' variance is about 1."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, c_in, height, width, generator=g)
    weight = torch.randn(c_out, c_in, 3, 3, generator=g) / (9 * c_in) ** 0.5
    return [x, weight, torch.randn(c_out, generator=g), torch.randn(batch, c_out, height, width, generator=g)]


@pytest.mark.parametrize(
    ("batch", "c_in", "c_out", "height", "width"),
    [
        (3, 5, 7, 4, 4),
        (2, 8, 4, 8, 8),
        (1, 3, 3, 12, 4),
        (2, 4, 6, 4, 20),
        (2, 6, 2, 16, 8),
        (1, 4, 4, 16, 16),
        (2, 3, 5, 20, 24),
        (2, 3, 5, 32, 48),
        (1, 6, 4, 64, 16),
        (64, 128, 128, 4, 4),
    ],
)
def test_it_is_the_direct_convolution_and_so_are_its_gradients(batch, c_in, c_out, height, width):
    """Against float64. Rounding grows with the numbers of A and B, to about a hundred times that of float32.

    32 x 48 and 64 x 16 are cut into blocks, 20 x 24 is not.
    """
    x, weight, bias, grad = tensors(batch, c_in, c_out, height, width)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    want = F.conv2d(*exact, padding=1)
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    found = winograd_conv(*inputs)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found.double(), want, atol=6e-5, rtol=0)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(want, exact, grad.double()), strict=True
    ):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("side", [8, 32])
def test_without_bias_and_with_a_gradient_of_one_input_alone(side):
    """A layer that is not trained does not keep the points."""
    x, weight, _, grad = tensors(2, 4, 4, side, side)
    grad = grad.to(memory_format=torch.channels_last)
    for wanted in (x, weight):
        wanted.requires_grad_()
        out = winograd_conv(x, weight)
        assert (out.grad_fn.saved_tensors[0] is None) == (wanted is x)
        (found,) = torch.autograd.grad(out, wanted, grad)
        (want,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), wanted, grad)
        torch.testing.assert_close(found, want, atol=1e-3, rtol=1e-4)
        wanted.requires_grad_(False)


def test_the_three_maps_are_winograds_in_fractions():
    """A^T ((G g) * (B^T d)) is the correlation of four outputs, for every unit kernel g and unit line of pixels d."""
    read, kernel, write = (
        [[Fraction(number).limit_denominator(24) for number in row] for row in table]
        for table in (maps._B_T, maps._G, maps._A_T)
    )
    for tap, pixel in product(range(3), range(6)):
        products = [kernel[point][tap] * read[point][pixel] for point in range(6)]
        outputs = [sum(a * b for a, b in zip(row, products, strict=True)) for row in write]
        assert outputs == [Fraction(int(place + tap == pixel)) for place in range(4)]


def test_the_output_may_be_changed_in_place_and_used_twice():
    """As the residual blocks do with what a convolution returns."""
    x, weight, bias, _ = (tensor.requires_grad_() for tensor in tensors(2, 4, 4, 8, 8))
    out = winograd_conv(x, weight, bias).add_(x)
    (out.sum() + 2 * out.sum()).backward()
    with torch.no_grad():
        want = 3 * (F.conv_transpose2d(torch.ones(2, 4, 8, 8), weight, padding=1) + 1)
    torch.testing.assert_close(x.grad, want, atol=1e-4, rtol=1e-4)


def test_a_second_derivative_is_refused():
    x, weight, _, _ = tensors(1, 4, 4, 4, 4)
    x.requires_grad_()
    (first,) = torch.autograd.grad(winograd_conv(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_the_layer_has_the_keys_and_the_initial_values_of_torchs():
    torch.manual_seed(3)
    ours = Conv3x3(4, 6).state_dict()
    torch.manual_seed(3)
    theirs = nn.Conv2d(4, 6, 3, padding=1).state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def taken(layer: Conv3x3, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the layer went Winograd's way; if it did not, its output is torch's to the bit."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(layers, "winograd_conv", lambda *inputs: calls.append(1) or winograd_conv(*inputs))
        out = layer(x)
    if not calls:
        assert torch.equal(out, F.conv2d(x, layer.weight, layer.bias, padding=1))
    return bool(calls)


def test_when_the_layer_takes_winograds_way(monkeypatch):
    layer = Conv3x3(64, 64)
    x = torch.randn(16, 64, 8, 8)
    assert taken(layer, x, monkeypatch)
    with winograd_convolutions(enabled=False):
        assert not taken(layer, x, monkeypatch)
        with winograd_convolutions(enabled=True):
            assert taken(layer, x, monkeypatch)
    assert taken(layer, x, monkeypatch), "the flag is what it was before"
    assert not taken(layer, x.contiguous(memory_format=torch.channels_last), monkeypatch)
    assert not taken(layer, torch.randn(16, 64, 10, 8), monkeypatch), "a side that is no multiple of four"
    assert not taken(layer, torch.randn(1, 64, 4, 4), monkeypatch), "too small to be worth it"
    assert not taken(Conv3x3(8, 8), torch.randn(64, 8, 8, 8), monkeypatch), "too narrow to be worth it"
    assert not taken(layer.double(), x.double(), monkeypatch)
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_drawing_wants_more_channels_than_training():
    """A step without gradients spares a third of the multiplications, but meets half of the maps."""
    x = torch.empty(64, 32, 16, 16)
    assert is_faster(x, 32)
    with torch.no_grad():
        assert not is_faster(x, 32)
        assert is_faster(torch.empty(64, 128, 16, 16), 128)


@contextmanager
def default_double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_maps_are_the_same_whatever_torchs_defaults_are_when_they_are_first_wanted():
    """They are made once: not as inference tensors, which a training could not use, nor on another device."""
    x, weight, _, _ = tensors(2, 4, 4, 8, 8)
    want = winograd_conv(x, weight)
    for setting in (torch.inference_mode(), torch.device("meta"), default_double()):
        maps._Plan.of.cache_clear()
        maps._kernel_map.cache_clear()
        with setting:
            assert torch.equal(winograd_conv(x, weight), want)
        weight.requires_grad_()
        winograd_conv(x, weight).sum().backward()
        weight.requires_grad_(False)


def test_tensors_without_numbers_go_the_direct_way(monkeypatch):
    """`unclip plan` counts the memory of an accelerator with them; a map made of them would stay for later calls."""
    with FakeTensorMode():
        layer = Conv3x3(64, 64)
        x = torch.empty(64, 64, 8, 8)
        calls = []
        monkeypatch.setattr(layers, "winograd_conv", lambda *inputs: calls.append(1))
        assert layer(x).shape == (64, 64, 8, 8) and not calls


def test_what_it_cannot_convolve_is_refused():
    x, weight, _, _ = tensors(1, 4, 4, 6, 4)
    with pytest.raises(ValueError, match=r"multiples of 4.*\(1, 4, 6, 4\)"):
        winograd_conv(x, weight)
    with pytest.raises(ValueError, match="contiguous"):
        winograd_conv(torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last), weight)
    with pytest.raises(ValueError, match="float64"):
        winograd_conv(x[:, :, :4].contiguous().double(), weight.double())


@pytest.mark.parametrize("body", ["adm", "lean"])
def test_pictures_in_channels_last_bring_the_layout_into_no_network(body):
    """They are decoded so, and torch's group norms are slow in it; a network of such weights keeps it."""
    config = UNetConfig(16, (1, 2), 1, (8, 4), 16, image_size=16, patch_size=2, body=body)
    network = make_unet(config, 3, 3, context_width=8)
    x = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    seen = []
    for module in network.modules():
        if isinstance(module, Conv3x3):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    inputs = x, torch.zeros(2), torch.randn(2, network.emb_width), torch.randn(2, 5, 8)
    network(*inputs)
    assert len(seen) >= 8 and all(seen)
    seen.clear()
    network.to(memory_format=torch.channels_last)(*inputs)
    assert not any(seen)


def test_a_network_and_its_gradients_are_those_of_direct_convolutions():
    torch.manual_seed(0)
    network = UNet(UNetConfig(32, (1, 2), 1, (8,), 16, image_size=16), 3, 3)
    for parameter in network.parameters():  # the branches end in zeros
        nn.init.normal_(parameter, std=0.05)
    x, t = torch.randn(16, 3, 16, 16), torch.arange(16) * 50
    emb = torch.randn(16, network.emb_width)
    found = []
    for enabled in (True, False):
        network.zero_grad()
        with winograd_convolutions(enabled=enabled):
            out = network(x, t, emb)
            out.square().mean().backward()
        found.append([out.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    assert not torch.equal(found[0][0], found[1][0]), "Winograd's way was not taken"
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-9


def test_checkpointed_blocks_compute_the_same_again():
    """The backward pass takes Winograd's way where the forward pass took it: both would keep gradients."""
    torch.manual_seed(0)
    block = Stage(ResidualBlock(64, 64, 8), None, checkpointing=True).train()
    nn.init.normal_(block.residual.conv_2.weight, std=0.05)
    x, emb, found = torch.randn(16, 64, 8, 8), torch.randn(16, 8), []
    for checkpointing in (True, False):
        block.checkpointing = checkpointing
        block.zero_grad()
        block(x, emb, None).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in block.parameters()])
    assert all(map(torch.equal, *found))


def test_gradients_may_be_taken_under_autocast():
    """The forward pass was outside of it, in float32."""
    x, weight, _, grad = tensors(2, 4, 4, 8, 8)
    weight.requires_grad_()
    out = winograd_conv(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(out, weight, grad)
    (want,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), weight, grad)
    torch.testing.assert_close(found, want, atol=1e-3, rtol=1e-4)


def test_weights_in_bfloat16_compute_in_float32():
    """As `--precision bf16` holds them while pictures are drawn on a CPU."""
    torch.manual_seed(0)
    layer, x = Conv3x3(64, 64), torch.randn(64, 64, 8, 8)
    layer.weight = nn.Parameter(layer.weight.detach().bfloat16())
    want = F.conv2d(x, layer.weight.detach().float(), layer.bias, padding=1)
    compute_in_bfloat16(layer, torch.device("cpu"))
    with torch.no_grad():
        found = layer(x)
    assert found.dtype == torch.float32 and not torch.equal(found, want), "Winograd's way was not taken"
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_a_compiled_network_is_one_graph_of_direct_convolutions():
    """dynamo need not look at the rule: no graph breaks there."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    layer, x = Conv3x3(64, 64), torch.randn(16, 64, 8, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
    assert not counters["graph_break"]


def test_an_environment_variable_makes_all_convolutions_direct():
    code = (
        "import torch; from modules.networks.convolutions import layer; "
        "layer.winograd_conv = lambda *_: exit(3); layer.Conv3x3(64, 64)(torch.randn(16, 64, 8, 8))"
    )
    for value, status in (("0", 0), ("1", 3)):
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, layers.VARIABLE: value}, timeout=120)
        assert done.returncode == status


def test_torchs_own_errors_and_empty_batches_stay():
    layer = Conv3x3(64, 64)
    assert layer(torch.empty(0, 64, 8, 8)).shape == (0, 64, 8, 8)
    assert layer(torch.randn(64, 8, 8)).shape == (64, 8, 8)
    with pytest.raises(RuntimeError, match="channels"):
        layer(torch.randn(16, 32, 8, 8))
