"""The parts that several networks share: attention, embeddings of time, zero-initialised layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_init(module: nn.Module) -> nn.Module:
    """Set a layer's weights to zero, so that the branch that it ends starts as nothing (ADM, section 3)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of timesteps (Improved DDPM, appendix A, after Transformers).

    Args:
        t: (B,) timesteps of the training schedule, 0 to T - 1.
        width: an even number.

    Returns:
        (B, width) float32, cosines before sines.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(max_period) / half))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids through a two-layer perceptron: (B,) timesteps -> (B, out_width).

    Raises:
        ValueError: width is odd. Half of it are sines, half cosines.
    """

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(
                f"a U-Net's channels and a prior's width must be even (sines and cosines of the timestep), got {width}"
            )
        self.width = width
        self.first, self.second = nn.Linear(width, out_width), nn.Linear(out_width, out_width)

    def forward(self, t: Tensor) -> Tensor:
        return self.second(F.silu(self.first(timestep_embedding(t, self.width).to(self.first.weight.dtype))))


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention over (B, heads, L, head width) tensors.

    The head dimension is made contiguous where it is not: with a strided one, the CPU falls back to a slow kernel in
    silence. The other strides cost nothing, so a key/value cache is read where it lies.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def silu_(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else holds: in place where no gradient is wanted, to spare the CPU page faults."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add_(x: Tensor, y: Tensor) -> Tensor:
    """x + y, written into x, a convolution's output that nobody else holds and no gradient needs."""
    return x.add_(y) if x.dtype == y.dtype else x + y


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, W) -> (B, heads, L, W / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, L, W / heads) -> (B, L, W)."""
    return x.transpose(1, 2).flatten(2)


def upsampled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution of x enlarged to twice its side by repeating pixels: (B, C, H, W) -> (B, C_out, 2 H, 2 W).

    Each output pixel sees four different inputs, not nine, so that a transposed convolution with a 4x4 kernel gives the
    same for less than half of the multiplications. Small images on the CPU gain nothing, as the kernel has to be
    summed first; on a GPU it has not been timed.
    """
    if x.device.type == "cpu" and x.shape[2] * x.shape[3] >= 16 * 16:
        return F.conv_transpose2d(x, upsampling_kernel(conv.weight), conv.bias, stride=2, padding=1)
    return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def upsampling_kernel(weight: Tensor) -> Tensor:
    """(C_out, C, 3, 3) of the convolution -> (C, C_out, 4, 4) of the transposed one: sums over 2x2 windows."""
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[..., 1:, :] + padded[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]).flip(2, 3).transpose(0, 1)
