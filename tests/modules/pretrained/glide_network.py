"""GLIDE's networks as functions of their state dicts, written from the paper's and the files' description: an oracle.

Nothing of this project is used. Attention has heads of 64, group norms have 32 groups, and a level of the U-Net has
`depth` residual blocks and one that halves the resolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
HEAD, GROUPS = 64, 32


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def convolved(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def group_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, GROUPS, state[f"{name}.weight"], state[f"{name}.bias"])


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(..., T, C), (..., S, C), (..., S, C) -> (..., T, C)."""
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v


def text(state: State, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) tokens, (B, L) bool, False for padding -> the vector (B, E) and the features (B, L, W)."""
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    x = torch.where(mask[..., None], x, state["padding_embedding"])
    block = 0
    while f"transformer.resblocks.{block}.ln_1.weight" in state:
        name, (count, length, width) = f"transformer.resblocks.{block}", x.shape
        heads = linear(state, f"{name}.attn.c_qkv", layer_norm(state, f"{name}.ln_1", x))
        q, k, v = heads.view(count, length, width // HEAD, 3 * HEAD).transpose(1, 2).split(HEAD, dim=-1)
        mixed = attended(q, k, v).transpose(1, 2).reshape(count, length, width)
        x = x + linear(state, f"{name}.attn.c_proj", mixed)
        wide = F.gelu(linear(state, f"{name}.mlp.c_fc", layer_norm(state, f"{name}.ln_2", x)))
        x, block = x + linear(state, f"{name}.mlp.c_proj", wide), block + 1
    x = layer_norm(state, "final_ln", x)
    return linear(state, "transformer_proj", x[:, -1]), x


def residual(state: State, name: str, x: Tensor, emb: Tensor, resample: str = "") -> Tensor:
    h = F.silu(group_norm(state, f"{name}.in_layers.0", x))
    if resample == "down":
        h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    elif resample == "up":
        h, x = (F.interpolate(y, scale_factor=2, mode="nearest") for y in (h, x))
    h = convolved(state, f"{name}.in_layers.2", h)
    scale, shift = linear(state, f"{name}.emb_layers.1", F.silu(emb))[..., None, None].chunk(2, dim=1)
    h = group_norm(state, f"{name}.out_layers.0", h) * (1 + scale) + shift
    h = convolved(state, f"{name}.out_layers.3", F.silu(h))
    return h + (convolved(state, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in state else x)


def attention(state: State, name: str, x: Tensor, context: Tensor) -> Tensor:
    count, width, high, wide = x.shape
    heads = width // HEAD

    def split(part: str, rows: Tensor, chunks: int) -> list[Tensor]:
        """(B, positions, C) -> chunks of (B, heads, positions, HEAD)."""
        out = F.linear(rows, state[f"{name}.{part}.weight"][..., 0], state[f"{name}.{part}.bias"])
        return list(out.view(count, rows.shape[1], heads, chunks * HEAD).transpose(1, 2).split(HEAD, dim=-1))

    q, k, v = split("qkv", group_norm(state, f"{name}.norm", x).flatten(2).transpose(1, 2), 3)
    k_text, v_text = split("encoder_kv", context, 2)
    mixed = attended(q, torch.cat([k_text, k], dim=2), torch.cat([v_text, v], dim=2))
    mixed = mixed.transpose(1, 2).reshape(count, high * wide, width)
    out = F.linear(mixed, state[f"{name}.proj_out.weight"][..., 0], state[f"{name}.proj_out.bias"])
    return x + out.transpose(1, 2).reshape(x.shape)


def network(state: State, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, depth: int) -> Tensor:
    """(B, C, H, W) noised pictures (for the upsampler, enlarged ones behind), (B,) timesteps -> (B, 6, H, W)."""
    half = len(state["input_blocks.0.0.weight"]) // 2
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
    vector, context = text(state, tokens, mask)
    emb = linear(state, "time_embed.2", F.silu(linear(state, "time_embed.0", waves))) + vector

    def block(name: str, h: Tensor, resample: str = "") -> Tensor:
        h = residual(state, f"{name}.0", h, emb, resample)
        return attention(state, f"{name}.1", h, context) if f"{name}.1.qkv.weight" in state else h

    h = convolved(state, "input_blocks.0.0", x)
    skips, number = [h], 1
    while f"input_blocks.{number}.0.in_layers.0.weight" in state:
        h = block(f"input_blocks.{number}", h, "down" if number % (depth + 1) == 0 else "")
        skips, number = [*skips, h], number + 1
    h = residual(state, "middle_block.2", block("middle_block", h), emb)
    for number in range(len(skips)):
        name = f"output_blocks.{number}"
        h = block(name, torch.cat([h, skips.pop()], dim=1))
        up = next((k for k in (1, 2) if f"{name}.{k}.in_layers.0.weight" in state), None)
        h = h if up is None else residual(state, f"{name}.{up}", h, emb, "up")
    return convolved(state, "out.2", F.silu(group_norm(state, "out.0", h)))
