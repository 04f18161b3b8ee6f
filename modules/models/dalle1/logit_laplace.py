"""The logit-Laplace distribution of pixels (DALL-E 1, appendix A.3): a density on (0, 1), where pixel values lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 0.1
"""Pixel values go to [EPSILON, 1 - EPSILON], where the density's 1 / (x (1 - x)) is small."""


def to_unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> x in [0.1, 0.9]; the paper's map of 0 to 255, (1 - 2 eps) x / 255 + eps."""
    return (1 - 2 * EPSILON) * (images + 1) / 2 + EPSILON


def from_unit(x: Tensor) -> Tensor:
    """The inverse: x in (0, 1) -> images in [-1, 1]; values outside of [0.1, 0.9] are clamped."""
    return (2 * (x - EPSILON) / (1 - 2 * EPSILON) - 1).clamp(-1, 1)


def nll(x: Tensor, mu: Tensor, ln_b: Tensor) -> Tensor:
    """-ln f(x), with f(x) = 1 / (2 b x (1 - x)) exp(-|logit x - mu| / b): nats a value, of x's shape.

    Args:
        x: values in (0, 1).
        mu: the median of logit x.
        ln_b: ln of the scale b.
    """
    return (torch.logit(x) - mu).abs() * (-ln_b).exp() + ln_b + math.log(2) + torch.log(x * (1 - x))


def as_images(parameters: Tensor) -> Tensor:
    """The decoder's (B, 2 C, H, W) -> (B, C, H, W) images in [-1, 1]: the medians, sigmoid(mu); b is ignored."""
    mu, _ = parameters.chunk(2, dim=1)
    return from_unit(torch.sigmoid(mu))
