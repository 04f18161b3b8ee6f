"""Group norm that is fast in both memory layouts on a CPU, with the scale and shift that follow it in ADM's blocks.

On a CPU, torch's own group norm is several times slower for channels_last tensors than for contiguous ones
(`make bench BENCH_ARGS="--only group_norm"`). This costs as much as the convolutions gain from the layout. Here the
statistics of a channels_last tensor are sums over positions, and norm, weight, bias, scale and shift are one product
and one sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MANY_POSITIONS = 1024
"""From so many positions on, torch's forward kernel (not its backward one) is fast for channels_last too."""

FEW_NUMBERS = 2**18
"""Tensors of fewer numbers are left to torch: there the calls cost more than the sums."""


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, which can be scaled and shifted by a vector as well.

    With `sums`, float32 tensors on the CPU in channels_last layout are normed by other sums: equal to rounding.
    `to_channels_last` sets it.
    """

    sums = False

    def forward(self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the same shape: norm(x) weight + bias, then times (1 + scale), plus shift.

        Args:
            input: the features.
            scale, shift: (B, C) both, or None both.
        """
        if self.sums and _kernel_is_slow(input):
            weight, bias = self.weight[None], self.bias[None]
            if scale is not None and shift is not None:
                weight, bias = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
            found: Tensor = _ChannelsLastNorm.apply(input, weight, bias, self.num_groups, self.eps)
            return found
        h = super().forward(input)
        if scale is None or shift is None:
            return h
        # In float32 at least: in bfloat16 1 + scale is 1 for every scale below 0.0039.
        exact = torch.promote_types(h.dtype, torch.float32)
        scale, shift = (vector.to(exact)[:, :, None, None] for vector in (scale, shift))
        return torch.addcmul(shift, h.to(exact), 1 + scale).to(h.dtype)


def to_channels_last(network: nn.Module, fast_norms: bool = False) -> nn.Module:
    """Give convolutions weights in channels_last layout and, if wanted, group norms the fast sums; in place."""
    for module in network.modules():
        if isinstance(module, GroupNorm):
            module.sums = fast_norms
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _kernel_is_slow(x: Tensor) -> bool:
    """Whether torch's own kernel is slow for (B, C, H, W)."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and x.numel() >= FEW_NUMBERS
        and not x.is_contiguous()  # With one position or one channel a tensor has both layouts.
        and x.is_contiguous(memory_format=torch.channels_last)
        and (x.shape[2] * x.shape[3] < MANY_POSITIONS or torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
    )


class _ChannelsLastNorm(torch.autograd.Function):
    """(B, C, H, W) in channels_last, weight and bias (1 or B, C) -> weight (x - mean) / sqrt(variance + eps) + bias.

    Mean and variance are those of a sample's group of channels over all positions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        flat = _positions(x)
        if flat.shape[1] < MANY_POSITIONS:
            mean, inverse = _moments(flat, groups, eps)
            factor = inverse * weight
            y = torch.addcmul((bias - mean * factor)[:, None], flat, factor[:, None])
        else:
            size, channels, count = len(x), x.shape[1], flat.shape[1]
            normed, mean, inverse = torch.native_group_norm(x, None, None, size, channels, count, groups, eps)
            mean, inverse = (_repeated(moment, channels) for moment in (mean, inverse))
            y = _positions(normed)
            torch.addcmul(bias[:, None], y, weight[:, None], out=y)
        ctx.groups = groups
        ctx.save_for_backward(x, weight, mean, inverse)
        return _picture(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        flat, gradient = _positions(x), _positions(gradients[0])
        summed = gradient.sum(1)
        # Of the normalised x: its products with the gradient, summed over positions.
        products = ((gradient * flat).sum(1) - mean * summed) * inverse
        constant = _group_means(summed * weight, ctx.groups) / flat.shape[1]
        slope = _group_means(products * weight, ctx.groups) / flat.shape[1] * inverse.square()
        offset = (mean * slope - inverse * constant)[:, None]
        d_x = torch.addcmul(offset, flat, -slope[:, None]).addcmul_(gradient, (inverse * weight)[:, None])
        return _picture(d_x, x), products.sum_to_size(weight.shape), summed.sum_to_size(weight.shape), None, None


def _moments(flat: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """(B, P, C) -> mean and 1 / sqrt(variance + eps) of the group of each channel, (B, C) both."""
    mean = flat.mean(1)
    # Around each channel's own mean first: the difference of two large sums would lose digits.
    within = (flat - mean[:, None]).square_().mean(1)
    group_mean = _group_means(mean, groups)
    variance = _group_means(within + (mean - group_mean).square_(), groups)
    return group_mean, (variance + eps).rsqrt_()


def _positions(x: Tensor) -> Tensor:
    """(B, C, H, W) in any layout -> (B, H W, C), contiguous; a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def _picture(flat: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) -> (B, C, H, W) in channels_last, as a view."""
    return flat.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _group_means(x: Tensor, groups: int) -> Tensor:
    """(B, C) -> (B, C), each entry being the mean of its group of channels."""
    return _repeated(x.unflatten(1, (groups, -1)).mean(2), x.shape[1])


def _repeated(x: Tensor, channels: int) -> Tensor:
    """(B, groups) -> (B, C): a group's number for each of its channels."""
    return x[:, :, None].expand(-1, -1, channels // x.shape[1]).flatten(1)
