"""A 3 x 3 convolution with a quarter of the multiplications, for float32 on the CPU (Lavin and Gray, 1509.09308).

Winograd's F(4 x 4, 3 x 3) reads the picture in tiles of 6 x 6 pixels that overlap by two. Three linear maps do the
work. One turns each tile into 36 points, one turns each kernel into 36 points, and the third turns the products of both
(a matrix multiplication over the channels at every point) into 4 x 4 output pixels. A direct convolution multiplies 144
times for them.

cuDNN does the same on GPUs. PyTorch's kernels for the CPU do not. Here every map is a matrix multiplication that reads
and writes whole rows: the tiles' overlap and the zeros around the picture are in the matrices, so that nothing is
padded, unfolded or permuted. Only pictures of more than 16 pixels are first cut into blocks. The result is the direct
convolution's but for rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 4  # output pixels of a tile's side
_POINTS = 6  # its points
_BLOCK = 16  # larger pictures are cut into blocks of this side

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


def can_convolve(x: Tensor, weight: Tensor) -> bool:
    """Whether `winograd_conv` takes (B, C, H, W) and (C_out, C, 3, 3).

    It takes contiguous float32 tensors on the CPU, with sides that are multiples of 4, without autocast. It does not
    take FakeTensors, whose maps would be kept for real ones, nor DTensors.
    """
    return (
        type(x) is Tensor
        and x.ndim == 4
        and x.numel() > 0
        and weight.shape[1:] == (x.shape[1], 3, 3)
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous()
        and x.shape[2] % _TILE == 0
        and x.shape[3] % _TILE == 0
        and not torch.is_autocast_enabled("cpu")
    )


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, C, H, W), (C_out, C, 3, 3), (C_out,) -> (B, C_out, H, W): the convolution with a border of one zero pixel.

    Gradients can be taken once: a second derivative is refused.

    Raises:
        ValueError: the tensors are not of the kind that `can_convolve` allows.
    """
    if not can_convolve(x, weight):
        raise ValueError(
            f"Winograd's convolution takes contiguous float32 tensors on the CPU, with sides that are multiples of "
            f"{_TILE} and kernels of 3 x 3, without autocast; got x {_told(x)} and weight {_told(weight)}"
        )
    return _Winograd.apply(x, weight, bias)


def _told(tensor: Tensor) -> str:
    layout = "contiguous" if tensor.is_contiguous() else "not contiguous"
    return f"{tuple(tensor.shape)} ({tensor.dtype}, {tensor.device}, {layout})"


class _Winograd(torch.autograd.Function):
    """Every gradient is a multiplication at the same points, between the transposed maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plan = _Plan.of(*x.shape[2:])
        points = _to_points(_cut(x, plan.block, border=1) if plan.block else x, plan.rows.read, plan.columns.read)
        kernel = torch.mm(_kernel_map(), weight.reshape(-1, 9).t()).view(_POINTS**2, *weight.shape[:2])
        products = _multiply(points, kernel.transpose(1, 2))
        out = _from_points(products, plan.rows.write, plan.columns.write)
        if plan.block:
            out = _joined(out, x.shape)
        # The points are more than twice as large as x. A layer that is not trained needs none.
        ctx.save_for_backward(points if ctx.needs_input_grad[1] else None, kernel)
        ctx.shape = x.shape
        return out if bias is None else out.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with torch.autocast("cpu", enabled=False):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    points, kernel = ctx.saved_tensors
    plan = _Plan.of(*ctx.shape[2:])
    grad_out = _cut(grad, plan.block, border=0) if plan.block else grad
    grad_products = _to_points(grad_out, plan.rows.write.t(), plan.columns.write.t())
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_points = _multiply(grad_products, kernel)
        grad_x = _from_points(grad_points, plan.rows.read.t(), plan.columns.read.t())
        if plan.block:
            grad_x = _added_up(grad_x, ctx.shape)
    if ctx.needs_input_grad[1]:
        grad_kernel = torch.bmm(grad_products[0].transpose(1, 2), points[0])
        for ours, theirs in zip(grad_products[1:], points[1:], strict=True):
            grad_kernel.baddbmm_(ours.transpose(1, 2), theirs)
        flat = torch.mm(_kernel_map().t(), grad_kernel.view(_POINTS**2, -1))
        grad_weight = flat.t().reshape(*kernel.shape[1:], 3, 3)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_x, grad_weight, grad_bias


class _Line(NamedTuple):
    """One dimension of S pixels: `read` is (6 S / 4, S), or (6 S / 4, S + 2) for a block; `write` (S, 6 S / 4)."""

    read: Tensor
    write: Tensor


class _Plan(NamedTuple):
    """The maps of a picture, or of its blocks.

    `columns` runs over a row's pixels and orders points by (tile, point); `rows` by (point, tile). `block` is the side
    of the blocks that a large picture is cut into, else 0.
    """

    rows: _Line
    columns: _Line
    block: int

    @staticmethod
    @cache
    def of(height: int, width: int) -> _Plan:
        block = _block_side(height, width)
        if block:
            height = width = block
        rows = _line(height, border=bool(block), tiles_first=False)
        return _Plan(rows, _line(width, border=bool(block), tiles_first=True), block)


def _block_side(height: int, width: int) -> int:
    """16 for pictures that are larger and consist of such blocks, else 0: the maps' work grows with the side."""
    return _BLOCK if max(height, width) > _BLOCK and height % _BLOCK == width % _BLOCK == 0 else 0


def picture_cost(height: int, width: int) -> float:
    """What both maps of a picture cost for each of its pixels, as so many multiplications of a direct convolution."""
    return 480.0 if _block_side(height, width) else 210.0 + 0.4 * max(height, width) ** 2


def _line(size: int, *, border: bool, tiles_first: bool) -> _Line:
    tiles = size // _TILE
    kind: Any = {"dtype": torch.float32, "device": "cpu"}  # torch's defaults may be others
    read = torch.zeros(tiles, _POINTS, size + 2, **kind)
    write = torch.zeros(size, tiles, _POINTS, **kind)
    for tile in range(tiles):
        start = _TILE * tile
        read[tile, :, start : start + _POINTS] = torch.tensor(_B_T, **kind)
        write[start : start + _TILE, tile] = torch.tensor(_A_T, **kind)
    if not border:  # it is zero
        read = read[..., 1:-1]
    if not tiles_first:
        read, write = read.transpose(0, 1), write.transpose(1, 2)
    return _Line(read.reshape(_POINTS * tiles, -1).contiguous(), write.reshape(size, -1).contiguous())


@cache
def _kernel_map() -> Tensor:
    """(36, 9): a kernel's points, ordered as `_to_points` orders a tile's, from its nine numbers."""
    g = torch.tensor(_G, dtype=torch.float64, device="cpu")
    return torch.einsum("jx,iy->jiyx", g, g).reshape(_POINTS**2, 9).float().contiguous()


def _to_points(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, h, w) -> (N, 36, M B, C), by the maps (6 M, h) and (6 N, w): M x N tiles of 36 points."""
    batch, channels, height, width = x.shape
    half = torch.mm(columns, x.reshape(-1, width).t()).view(-1, batch * channels, height)
    points = torch.bmm(rows.expand(len(half), -1, -1), half.transpose(1, 2))
    return points.view(len(columns) // _POINTS, _POINTS**2, len(rows) // _POINTS * batch, channels)


def _from_points(points: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, 36, M B, C) -> (B, C, h, w), by the maps (h, 6 M) and (w, 6 N)."""
    height, width, channels = len(rows), len(columns), points.shape[-1]
    batch = points.shape[2] * _POINTS // rows.shape[1]
    images = batch * channels
    out = points.new_empty(batch, channels, height, width)
    if height < _BLOCK:  # wide products for small pictures, which are transposed at the end
        half = torch.mm(columns, points.view(columns.shape[1], -1)).view(width, -1, images)
        pixels = points.new_empty(height, width, images)
        for column, ours in enumerate(half):
            torch.mm(rows, ours, out=pixels[:, column])
        out.view(images, -1).copy_(pixels.view(-1, images).t())
        return out
    half = torch.bmm(
        points.view(columns.shape[1], -1, images).transpose(1, 2), rows.t().expand(columns.shape[1], -1, -1)
    )
    torch.mm(half.view(len(half), -1).t(), columns.t(), out=out.view(-1, width))
    return out


def _multiply(points: Tensor, kernel: Tensor) -> Tensor:
    """(N, 36, T, C) and (36, C, C_out) -> (N, 36, T, C_out)."""
    out = points.new_empty(*points.shape[:-1], kernel.shape[-1])
    for theirs, ours in zip(out, points, strict=True):
        torch.bmm(ours, kernel, out=theirs)
    return out


def _cut(x: Tensor, side: int, border: int) -> Tensor:
    """(B, C, H, W) -> (B H W / side^2, C, side + 2 border, side + 2 border): blocks and `border` pixels around them."""
    whole = side + 2 * border
    padded = F.pad(x, (border,) * 4) if border else x
    blocks = padded.unfold(2, whole, side).unfold(3, whole, side)
    return blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1], whole, whole)


def _joined(blocks: Tensor, shape: torch.Size) -> Tensor:
    """What `_cut` without a border has cut, as one picture again, of the size of `shape`."""
    side, (batch, _, height, width) = blocks.shape[-1], shape
    grid = blocks.view(batch, height // side, width // side, -1, side, side).permute(0, 3, 1, 4, 2, 5)
    out = blocks.new_empty(batch, blocks.shape[1], height, width)
    out.view(grid.shape).copy_(grid)
    return out


def _added_up(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Blocks with a border of one pixel, added where they overlap: (B, C, H, W)."""
    batch, channels, height, width = shape
    whole = blocks.shape[-1]
    side = whole - 2
    grid = blocks.view(batch, height // side, width // side, channels, whole, whole)
    out = blocks.new_zeros(batch, channels, height + 2, width + 2)
    for i, row in enumerate(grid.unbind(1)):
        for j, block in enumerate(row.unbind(1)):
            out[:, :, side * i : side * i + whole, side * j : side * j + whole] += block
    return out[:, :, 1:-1, 1:-1].contiguous()
