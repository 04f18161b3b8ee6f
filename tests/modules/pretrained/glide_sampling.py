"""How GLIDE's notebook (`text2im.ipynb`) draws, as functions of the files' tensors; it uses nothing of this project.

Everything is in float64. Noise is given by the caller, so that both sides have the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import glide_network
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def cosine() -> Tensor:
    """(1000,) alpha_bar of the base model: products of 1 - beta, each beta at most 0.999."""
    levels = [math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(1001)]
    betas = [min(1 - levels[k + 1] / levels[k], 0.999) for k in range(1000)]
    return torch.tensor([1 - beta for beta in betas], dtype=torch.float64).cumprod(0)


def linear() -> Tensor:
    """(1000,) alpha_bar of the upsampler."""
    return (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


FAST27 = [*(round(k * 199 / 9) for k in range(10)), *(200 + round(k * 199 / 9) for k in range(10))]
FAST27 += [400, 500, 599, 600, 799, 800, 997]
"""The timesteps of "fast27": sections of 10, 10, 3, 2 and 2, and 997 in the place of 999."""


def x0_of(x: Tensor, epsilon: Tensor, alpha_bar: float) -> Tensor:
    return ((x - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar)).clamp(-1, 1)


def base(
    state: State, x: Tensor, steps: list[int], words: tuple[Tensor, Tensor], noise: Callable[[], Tensor], scale: float
) -> Tensor:
    """Ancestral sampling with learned variance, guided away from a caption of padding alone.

    Args:
        x: (B, 3, H, W) x_T.
        steps: rising timesteps.
        words: (B, L) tokens and (B, L) their mask.
        noise: gives (B, 3, H, W), once a step but the last.
        scale: of guidance.
    """
    levels, (tokens, mask) = cosine()[steps].tolist(), words
    betas = [1 - now / before for now, before in zip(levels, [1.0, *levels], strict=False)]
    small = [beta * (1 - before) / (1 - now) for beta, now, before in zip(betas, levels, [1.0, *levels], strict=False)]
    for k in reversed(range(len(steps))):
        t = torch.full((len(x),), steps[k])
        given = glide_network.network(state, x, t, tokens, mask, 2)
        none = glide_network.network(state, x, t, tokens, torch.zeros_like(mask), 2)
        epsilon = none[:, :3] + scale * (given[:, :3] - none[:, :3])
        share = (given[:, 3:] + 1) / 2
        deviation = (0.5 * (share * math.log(betas[k]) + (1 - share) * math.log(small[max(k, 1)]))).exp()
        before = levels[k - 1] if k else 1.0
        clean = betas[k] * math.sqrt(before) / (1 - levels[k]) * x0_of(x, epsilon, levels[k])
        x = clean + (1 - before) * math.sqrt(1 - betas[k]) / (1 - levels[k]) * x
        x = x + deviation * noise() if k else x
    return x


def upsampled(state: State, x: Tensor, low: Tensor, words: tuple[Tensor, Tensor]) -> Tensor:
    """DDIM without noise over `FAST27`, given the small pictures in 8 bits.

    Args:
        x: (B, 3, H, W) standard normal noise, of which 0.997 is taken.
        low: (B, 3, h, w) as `base` gives them.
        words: see `base`.
    """
    rounded = ((low + 1) * 127.5).round() / 127.5 - 1
    enlarged = F.interpolate(rounded, x.shape[2:], mode="bilinear", align_corners=False)
    levels, x = linear()[FAST27].tolist(), x * 0.997
    for k in reversed(range(len(FAST27))):
        t = torch.full((len(x),), FAST27[k])
        epsilon = glide_network.network(state, torch.cat([x, enlarged], dim=1), t, *words, 1)[:, :3]
        clean, before = x0_of(x, epsilon, levels[k]), levels[k - 1] if k else 1.0
        epsilon = (x - math.sqrt(levels[k]) * clean) / math.sqrt(1 - levels[k])
        x = math.sqrt(before) * clean + math.sqrt(1 - before) * epsilon
    return x
