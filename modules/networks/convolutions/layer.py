"""The 3 x 3 convolution of the U-Nets: torch's, or on a CPU Winograd's where that is expected to be faster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from modules.networks.convolutions.winograd import can_convolve, picture_cost, winograd_conv

VARIABLE = "UNCLIP_WINOGRAD"
"""An environment variable; with the value 0 all convolutions of the process are direct."""

_SPARED = 6.75
"""Of 9 multiplications for each pixel, channel in and channel out, Winograd's way does 2.25."""

_KERNEL = 2_500.0
"""What the map of a kernel and its gradient cost, as so many multiplications for each pair of channels."""

_enabled: ContextVar[bool] = ContextVar("winograd", default=os.environ.get(VARIABLE) != "0")


@contextmanager
def winograd_convolutions(*, enabled: bool) -> Iterator[None]:
    """Inside, `Conv3x3` may take Winograd's way (`enabled`) or may not, like `torch.backends.mkldnn.flags`."""
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d(c_in, c_out, 3, padding=1)`, which takes Winograd's way where that is faster.

    (B, c_in, H, W) -> (B, c_out, H, W). Keys and initial values are those of `nn.Conv2d`. It is the direct convolution
    on GPUs, in other precisions, in channels_last, for sides that are no multiples of 4, under torch.compile, and for
    sizes at which the maps cost more than they spare (`is_faster`).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # torch.compile is asked for first: it need not look at the rest.
        if torch.compiler.is_compiling() or not _enabled.get():
            return super().forward(x)
        if can_convolve(x, self.weight) and is_faster(x, self.out_channels):
            return winograd_conv(x, self.weight, self.bias)
        return super().forward(x)


def is_faster(x: Tensor, c_out: int) -> bool:
    """Whether Winograd's way is expected to take less time than the direct one, for inputs (B, C, H, W).

    It spares multiplications in proportion to both widths, and pays for the maps: those of the pictures for each pixel
    of input and output, those of the kernel once a call. All costs are in multiplications, fitted to what
    `make bench BENCH_ARGS="--only winograd"` measured on an AMD EPYC with AVX2 while its other core trained a network.
    A training step multiplies three times (output, gradient of x, gradient of the kernel) and maps twice.
    """
    batch, c_in, height, width = x.shape
    picture = picture_cost(height, width) * (c_in + c_out) / 2 / (c_in * c_out)
    kernel = _KERNEL / (batch * height * width)
    if torch.is_grad_enabled():
        return 2 * (picture + kernel) < 3 * _SPARED
    return picture + kernel < _SPARED
