"""What is timed: the priors, the decoder and the upsampler, each beside a peer or beside its own slow path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timings import peers
from benchmarks.timings.cached_embeddings import prior_from_cache
from benchmarks.timings.data import data_reading
from benchmarks.timings.sampling import ar_sampling, prior_sampling
from benchmarks.timings.setting import PRIOR, Bench, prior_batch, prior_peers
from benchmarks.timings.timing import Result, paired
from modules.networks.convolutions.layer import is_faster
from modules.networks.convolutions.winograd import winograd_conv
from modules.networks.group_norm import GroupNorm, to_channels_last
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork
from modules.networks.unet import UNet, UNetConfig
from modules.networks.upsampler import UpsamplerNetwork


def prior_training(bench: Bench) -> Iterator[Result]:
    """A training step of the diffusion prior, batch 32, 77 text tokens."""
    batch = bench.batch(32)
    x, tokens, z_t, t = prior_batch(batch, bench.device)
    ours: Any = DiffusionPriorNetwork(512, **PRIOR).to(bench.device)
    run: Any = torch.compile(ours) if bench.compile else ours
    step = bench.training_step(ours, partial(_error, run, x, t, tokens, z_t), ours=True)
    at_peak = bench.at_peak(bench.training_step(ours, partial(_error, ours, x, t, tokens, z_t), ours=True))
    for name, peer in prior_peers(bench.device):
        theirs = bench.training_step(peer, partial(_error, peer, x, t, tokens, z_t), ours=False)
        yield paired("prior_training", step, name, theirs, bench.device, bench.pairs, at_peak)


def decoder(bench: Bench) -> Iterator[Result]:
    """The U-Net at 64 px, 64 channels x (1, 2, 3, 4), two blocks a level, batch 8: evaluation and training step."""
    batch, width = bench.batch(8), 256
    config = UNetConfig(64, (1, 2, 3, 4), 2, (32, 16, 8), 64)
    network: Any = UNet(config, 3, 6, width).to(bench.device)
    layout = torch.contiguous_format  # on the CPU, where Winograd's convolutions take it
    if bench.device.type != "cpu":
        network, layout = to_channels_last(network), torch.channels_last
    run: Any = torch.compile(network) if bench.compile else network
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 64, 64, generator=g).to(bench.device)
    fast = x.contiguous(memory_format=layout)
    t = torch.randint(0, 1000, (batch,), generator=g).to(bench.device)
    emb, context = torch.randn(batch, 256).to(bench.device), torch.randn(batch, 81, width).to(bench.device)

    def evaluate(call: Callable[[], Any]) -> Callable[[], None]:
        def inner() -> None:
            with torch.no_grad(), bench.autocast():
                call()

        return inner

    def ours() -> Tensor:
        return run(fast, t, emb, context)

    theirs: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {}
    if peers.available("diffusers"):
        peer = peers.diffusers_unet(64, 2, width).to(bench.device)
        theirs["diffusers"] = peer, lambda: peer(x, t, context).sample
    if peers.available("dalle2_pytorch"):
        other = peers.dalle2_unet(64, 2, width).to(bench.device)
        theirs["DALLE2-pytorch"] = other, lambda: other(x, t, image_embed=emb)
    step = bench.training_step(network, partial(_energy, ours), ours=True)
    plain = partial(network, fast, t, emb, context)  # what is compiled is counted uncompiled
    at_peak = (
        bench.at_peak(evaluate(plain)),
        bench.at_peak(bench.training_step(network, partial(_energy, plain), ours=True)),
    )
    for name, (module, call) in theirs.items():
        yield paired("decoder_evaluation", evaluate(ours), name, evaluate(call), bench.device, bench.pairs, at_peak[0])
        other_step = bench.training_step(module, partial(_energy, call), ours=False)
        yield paired("decoder_training", step, name, other_step, bench.device, bench.few, at_peak[1])


def _energy(call: Callable[[], Tensor]) -> Tensor:
    return call().float().square().mean()


def _error(network: Any, x: Tensor, *inputs: Tensor) -> Tensor:
    return F.mse_loss(network(x, *inputs).float(), x)


def upsampler(bench: Bench) -> Iterator[Result]:
    """A training step on a quarter-side crop against one on the whole 256 px image."""
    network: Any = UpsamplerNetwork(UNetConfig(32, (1, 2, 3, 4), 1, (), image_size=256))
    network = to_channels_last(network.to(bench.device), fast_norms=True)
    t = torch.zeros(2, dtype=torch.int64, device=bench.device)

    def step(side: int) -> Callable[[], None]:
        x = torch.randn(2, 3, side, side, device=bench.device).contiguous(memory_format=torch.channels_last)
        return bench.training_step(network, lambda: network(x, t, x).float().square().mean(), ours=True)

    yield paired("upsampler_crop_training", step(64), "whole image", step(256), bench.device, bench.few)


def group_norm(bench: Bench) -> Iterator[Result]:
    """A scaled and shifted group norm in channels_last, forwards and backwards, against torch's kernel in that layout.

    Feature maps of the quickstart's decoder (batch 64) and of the paper's (batch 8).
    """
    for batch, channels, side, groups in ((64, 32, 16, 8), (64, 128, 4, 32), (8, 192, 64, 32), (8, 384, 32, 32)):
        norm: Any = to_channels_last(GroupNorm(groups, channels).to(bench.device), fast_norms=True)
        features = torch.randn(bench.batch(batch), channels, side, side, device=bench.device)
        x = features.contiguous(memory_format=torch.channels_last).requires_grad_()
        scale, shift = torch.randn(2, len(x), channels, device=bench.device).unbind()

        def ours(norm: GroupNorm = norm, x: Tensor = x, scale: Tensor = scale, shift: Tensor = shift) -> None:
            torch.autograd.grad(norm(x, scale, shift), x, x.detach())

        def theirs(norm: GroupNorm = norm, x: Tensor = x, scale: Tensor = scale, shift: Tensor = shift) -> None:
            y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
            y = torch.addcmul(shift[:, :, None, None], y, 1 + scale[:, :, None, None])
            torch.autograd.grad(y, x, x.detach())

        name = f"group_norm_{channels}x{side}x{side}"
        yield paired(name, ours, "torch, channels_last", theirs, bench.device, bench.pairs)


def winograd(bench: Bench) -> Iterator[Result]:
    """3 x 3 convolutions by Winograd's maps against torch's direct ones, on the CPU.

    `training` is forwards and backwards, `drawing` forwards alone. A name says the channels of input and output, side
    and batch; with a star `is_faster` would choose Winograd's way.
    """
    widths = ((16, 16), (32, 32), (64, 32), (64, 64), (128, 128), (256, 256), (512, 512))
    for side, (c_in, c_out), count in product((4, 8, 16, 32, 64), widths, (1, 4, 16, 64)):
        batch = bench.batch(count)
        if bench.device.type == "cpu" and 9 * batch * c_in * c_out * side**2 <= 1e10:
            g = torch.Generator().manual_seed(0)
            x = torch.randn(batch, c_in, side, side, generator=g).requires_grad_()
            weight = torch.randn(c_out, c_in, 3, 3, generator=g).requires_grad_()
            bias = torch.zeros(c_out, requires_grad=True)
            for purpose, enabled in (("training", True), ("drawing", False)):
                ours = _convolved(partial(winograd_conv, x, weight, bias), (x, weight, bias), enabled)
                theirs = _convolved(partial(F.conv2d, x, weight, bias, padding=1), (x, weight, bias), enabled)
                with torch.set_grad_enabled(enabled):
                    star = "*" if is_faster(x, c_out) else ""
                name = f"winograd_{c_in}-{c_out}_{side}px_b{batch}_{purpose}{star}"
                yield paired(name, ours, "direct", theirs, bench.device, bench.pairs)


def _convolved(run: Callable[[], Tensor], inputs: tuple[Tensor, ...], gradients: bool) -> Callable[[], None]:
    def call() -> None:
        with torch.set_grad_enabled(gradients):
            out = run()
        if gradients:
            torch.autograd.grad(out, inputs, out.detach())

    return call


CASES: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "prior_training": prior_training,
    "decoder": decoder,
    "upsampler": upsampler,
    "group_norm": group_norm,
    "winograd": winograd,
    "prior_sampling_guided": lambda bench: prior_sampling(bench, guided=True),
    "prior_sampling": lambda bench: prior_sampling(bench, guided=False),
    "ar_sampling": ar_sampling,
    "data": data_reading,
    "prior_from_cache": prior_from_cache,
}


def rows(bench: Bench, only: str = "") -> Iterator[Result]:
    """The cases whose name contains `only`."""
    for name, case in CASES.items():
        if only in name:
            yield from case(bench)
