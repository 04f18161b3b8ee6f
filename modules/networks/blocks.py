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
    """Sinusoids through a two-layer perceptron: (B,) timesteps -> (B, out_width)."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = nn.Linear(width, out_width), nn.Linear(out_width, out_width)

    def forward(self, t: Tensor) -> Tensor:
        return self.second(F.silu(self.first(timestep_embedding(t, self.width).to(self.first.weight.dtype))))


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention over (B, heads, L, head width) tensors.

    q, k and v are made contiguous first: with a strided head dimension, the CPU falls back to a slow kernel in silence.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, W) -> (B, heads, L, W / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, L, W / heads) -> (B, L, W)."""
    return x.transpose(1, 2).flatten(2)
