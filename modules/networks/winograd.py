"""3 x 3 convolutions with a quarter of the multiplications, for float32 on the CPU (Lavin and Gray, 1509.09308).

Winograd's F(4 x 4, 3 x 3) reads the picture in tiles of 6 x 6 pixels that overlap by two. Three linear maps do the
work. One turns each tile into 36 points, one turns each kernel into 36 points, and the third turns the products of both
(a matrix multiplication over the channels at every point) into 4 x 4 output pixels. A direct convolution multiplies 144
times for them.

cuDNN does the same on GPUs. PyTorch's kernels for the CPU do not. Here every map is a matrix multiplication that reads
and writes whole rows: the tiles' overlap and the zeros around the picture are in the matrices, so that nothing is
padded, unfolded or permuted. The result is the direct convolution's but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TILE = 4  # output pixels of a tile's side
_POINTS = 6  # its points
_SPARED = 9 - (_POINTS / _TILE) ** 2  # multiplications for a pixel and a pair of channels, of a direct convolution's 9
_KERNELS_IN_CACHE = 256 * 256  # with more pairs of channels, a kernel's points no longer fit into a core's cache

# The maps of one dimension for the points 0, 1, -1, 2, -2 and infinity (1509.09308, section 4.3): B^T reads six pixels,
# G the three numbers of a kernel, A^T gives four pixels.
_B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_A_T = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

_enabled: ContextVar[bool] = ContextVar("winograd", default=True)


@contextmanager
def flags(*, enabled: bool) -> Iterator[None]:
    """Inside, `Conv3x3` may take Winograd's way (`enabled`) or may not, like `torch.backends.mkldnn.flags`."""
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d(c_in, c_out, 3, padding=1)` that takes Winograd's way where that is faster; same keys and initial values.

    (B, c_in, H, W) -> (B, c_out, H, W). It is the direct convolution on GPUs, in other precisions, for sides that are
    no multiples of 4, and for sizes at which the maps cost more than they spare (`is_faster`).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if _enabled.get() and can_convolve(x, self.weight) and is_faster(x, self.out_channels):
            return winograd_conv(x, self.weight, self.bias)
        return super().forward(x)


def can_convolve(x: Tensor, weight: Tensor) -> bool:
    """Whether the maps exist for these tensors: float32 on the CPU, sides that are multiples of 4, no autocast."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous()
        and x.shape[2] % _TILE == 0
        and x.shape[3] % _TILE == 0
        and not torch.compiler.is_compiling()
    )


def is_faster(x: Tensor, c_out: int) -> bool:
    """Whether Winograd's way is expected to take less time than the direct one, for inputs (B, C, H, W).

    It spares multiplications in proportion to both widths, and pays for the maps: those of the pictures for every pixel
    of both, those of the kernel once a call. The numbers are costs in multiplications, fitted to the table of
    `benchmarks/timings/winograd.py` on an AMD EPYC with AVX2; with gradients every cost but the saving is met twice.
    """
    batch, c_in, height, width = x.shape
    side = max(height, width)
    picture = (180 + side**2 / 3) * (c_in + c_out) / 2 / (c_in * c_out)
    kernel = (1_000 if c_in * c_out <= _KERNELS_IN_CACHE else 6_000) / (batch * height * width)
    if torch.is_grad_enabled():
        return 2 * (picture + kernel) < _SPARED * 3
    return picture + kernel < _SPARED


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, C, H, W), (C_out, C, 3, 3), (C_out,) -> (B, C_out, H, W): the convolution with a border of one zero pixel.

    Raises:
        ValueError: the tensors are not of the kind that `can_convolve` allows.
    """
    if not can_convolve(x, weight):
        raise ValueError(
            f"Winograd's convolution takes float32 tensors on the CPU, with sides that are multiples of {_TILE} and "
            f"without autocast or torch.compile; got {tuple(x.shape)}, {x.dtype}, {x.device}"
        )
    return _Winograd.apply(x, weight, bias)


class _Winograd(torch.autograd.Function):
    """Every gradient is a multiplication at the same points, between the transposed maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        maps = _Maps.of(x.shape[2], x.shape[3])
        points = _to_points(x, maps.rows.read, maps.columns.read)
        kernel = torch.mm(_kernel_map(), weight.reshape(-1, 9).t()).view(_POINTS**2, *weight.shape[:2])
        products = _multiply(points, kernel.transpose(1, 2))
        out = _from_points(products, maps.rows.write, maps.columns.write, x.shape[0])
        ctx.save_for_backward(points, kernel)
        ctx.maps, ctx.batch = maps, x.shape[0]
        ctx.has_bias = bias is not None
        return out if bias is None else out.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        points, kernel = ctx.saved_tensors
        maps = ctx.maps
        grad_products = _to_points(grad, maps.rows.write.t(), maps.columns.write.t())
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_points = _multiply(grad_products, kernel)
            grad_x = _from_points(grad_points, maps.rows.read.t(), maps.columns.read.t(), ctx.batch)
        if ctx.needs_input_grad[1]:
            grad_kernel = torch.bmm(grad_products[0].transpose(1, 2), points[0])
            for ours, theirs in zip(grad_products[1:], points[1:], strict=True):
                grad_kernel.baddbmm_(ours.transpose(1, 2), theirs)
            flat = torch.mm(_kernel_map().t(), grad_kernel.view(_POINTS**2, -1))
            grad_weight = flat.t().reshape(*kernel.shape[1:], 3, 3)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


class _Line(NamedTuple):
    """The maps of one dimension of S pixels: `read` is (6 S / 4, S), `write` (S, 6 S / 4)."""

    read: Tensor
    write: Tensor


class _Maps(NamedTuple):
    """`columns` runs over a row's pixels and orders points by (tile, point); `rows` by (point, tile)."""

    rows: _Line
    columns: _Line

    @staticmethod
    @cache
    def of(height: int, width: int) -> _Maps:
        return _Maps(_line(height, tiles_first=False), _line(width, tiles_first=True))


def _line(size: int, *, tiles_first: bool) -> _Line:
    tiles = size // _TILE
    read = torch.zeros(tiles, _POINTS, size + 2)
    write = torch.zeros(size, tiles, _POINTS)
    for tile in range(tiles):
        start = _TILE * tile
        read[tile, :, start : start + _POINTS] = torch.tensor(_B_T)
        write[start : start + _TILE, tile] = torch.tensor(_A_T)
    read = read[..., 1:-1]  # the border is zero
    if not tiles_first:
        read, write = read.transpose(0, 1), write.transpose(1, 2)
    return _Line(read.reshape(-1, size).contiguous(), write.reshape(size, -1).contiguous())


@cache
def _kernel_map() -> Tensor:
    """(36, 9): a kernel's points, ordered as `_to_points` orders a tile's, from its nine numbers."""
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.einsum("jx,iy->jiyx", g, g).reshape(_POINTS**2, 9).float().contiguous()


def _to_points(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, H, W) -> (W / 4, 36, H / 4 * B, C), by the maps (6 H / 4, H) and (6 W / 4, W)."""
    batch, channels, height, width = x.shape
    half = torch.mm(columns, x.reshape(-1, width).t()).view(-1, batch * channels, height)
    points = torch.bmm(rows.expand(len(half), -1, -1), half.transpose(1, 2))
    return points.view(width // _TILE, _POINTS**2, height // _TILE * batch, channels)


def _from_points(points: Tensor, rows: Tensor, columns: Tensor, batch: int) -> Tensor:
    """(W / 4, 36, H / 4 * B, C) -> (B, C, H, W), by the maps (H, 6 H / 4) and (W, 6 W / 4)."""
    height, width, channels = len(rows), len(columns), points.shape[-1]
    images = batch * channels
    out = points.new_empty(batch, channels, height, width)
    if height < 16:  # wide products for small pictures, which are transposed at the end
        half = torch.mm(columns, points.view(columns.shape[1], -1)).view(width, -1, images)
        pixels = points.new_empty(height, width, images)
        for column, ours in enumerate(half):
            torch.mm(rows, ours, out=pixels[:, column])
        out.view(images, -1).copy_(pixels.view(-1, images).t())
        return out
    half = torch.bmm(points.view(columns.shape[1], -1, images).transpose(1, 2), rows.t().expand(columns.shape[1], -1, -1))
    torch.mm(half.view(len(half), -1).t(), columns.t(), out=out.view(-1, width))
    return out


def _multiply(points: Tensor, kernel: Tensor) -> Tensor:
    """(W / 4, 36, T, C) and (36, C, C_out) -> (W / 4, 36, T, C_out)."""
    out = points.new_empty(*points.shape[:-1], kernel.shape[-1])
    for theirs, ours in zip(out, points, strict=True):
        torch.bmm(ours, kernel, out=theirs)
    return out
