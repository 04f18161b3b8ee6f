"""3 x 3 convolutions by Winograd's maps, beside torch's: where the rule of `modules.networks.winograd` is from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timings.setting import Bench
from benchmarks.timings.timing import Result, paired
from modules.networks.winograd import is_faster, winograd_conv

SIDES = (4, 8, 16, 32, 64)
WIDTHS = ((16, 16), (32, 32), (64, 32), (64, 64), (128, 128), (256, 256), (512, 512))
BATCHES = (1, 4, 16, 64)
MOST = 1.5e10
"""Multiplications of a direct convolution; larger cases are left out."""


def winograd(bench: Bench) -> Iterator[Result]:
    """Forwards and backwards (`training`), and forwards alone (`drawing`), on the CPU.

    A name says the channels of input and output, the side, the batch, and whether `is_faster` would choose it.
    """
    if bench.device.type != "cpu":
        return
    for side in SIDES:
        for c_in, c_out in WIDTHS:
            for batch in BATCHES:
                if 9 * batch * c_in * c_out * side**2 <= MOST:
                    yield from _one(bench, side, c_in, c_out, bench.batch(batch))


def _one(bench: Bench, side: int, c_in: int, c_out: int, batch: int) -> Iterator[Result]:
    x = torch.randn(batch, c_in, side, side, requires_grad=True)
    weight = torch.randn(c_out, c_in, 3, 3, requires_grad=True)
    bias = torch.randn(c_out, requires_grad=True)
    grad = torch.randn(batch, c_out, side, side)

    def train(y: Tensor) -> None:
        torch.autograd.grad(y, (x, weight, bias), grad)

    def ours() -> None:
        train(winograd_conv(x, weight, bias))

    def theirs() -> None:
        train(F.conv2d(x, weight, bias, padding=1))

    def draw() -> None:
        with torch.no_grad():
            winograd_conv(x, weight, bias)

    def draw_directly() -> None:
        with torch.no_grad():
            F.conv2d(x, weight, bias, padding=1)

    name = f"winograd_{c_in}-{c_out}_{side}px_b{batch}"
    chosen = "*" if is_faster(x, c_out) else ""
    yield paired(f"{name}_training{chosen}", ours, "direct", theirs, bench.device, bench.pairs)
    with torch.no_grad():
        chosen = "*" if is_faster(x, c_out) else ""
    yield paired(f"{name}_drawing{chosen}", draw, "direct", draw_directly, bench.device, bench.pairs)
