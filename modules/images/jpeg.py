"""The losses of JPEG, computed on tensors: in batches, on any device, with a quality for each image."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU T.81, annex K.1: the tables that libjpeg scales by quality.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
# JFIF: rows are Y, Cb, Cr.
RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
YCC_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Encode and decode as libjpeg does by default: 8 bits, 4:2:0. The coding without loss is left out.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        quality: (B,) 1 to 100.

    Returns:
        (B, 3, H, W) in [-1, 1], on the grid of 256 values. No gradient goes through.
    """
    height, width = images.shape[2:]
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    levels = F.pad(levels, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = torch.einsum("kc,bchw->bkhw", levels.new_tensor(RGB_TO_YCC), levels)
    luma = _quantise(ycc[:, :1] - 128, LUMINANCE, quality)
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), CHROMINANCE, quality)
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear")  # libjpeg's "fancy upsampling"
    ycc = torch.cat([luma + 128, chroma], dim=1)
    rgb = torch.einsum("kc,bchw->bkhw", levels.new_tensor(YCC_TO_RGB), ycc).round().clamp(0, 255)
    return (rgb[..., :height, :width] / 127.5 - 1).to(images.dtype)


def _quantise(planes: Tensor, table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """(B, C, H, W), sides multiples of 8: cosine transform of 8 x 8 blocks, rounded to multiples of the table."""
    steps = _scaled(planes.new_tensor(table), quality.to(planes))[:, None, None, None]
    dct = _dct_matrix().to(planes)
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (B, C, H/8, W/8, 8, 8)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / steps).round() * steps) @ dct
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _scaled(table: Tensor, quality: Tensor) -> Tensor:
    """(B, 8, 8): libjpeg's jpeg_quality_scaling."""
    quality = quality.clamp(1, 100)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    return ((table * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)


@lru_cache(maxsize=1)
def _dct_matrix() -> Tensor:
    """(8, 8) orthonormal DCT-II."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    matrix = torch.cos(math.pi / 8 * (n + 0.5) * k) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
