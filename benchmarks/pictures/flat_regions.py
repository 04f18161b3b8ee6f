"""Numbers of pictures whose true ones are flat: how flat, how patterned, how sharp; for `sharpness` and `speedrun`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def flatness(pictures: Tensor, true: Tensor) -> tuple[float, float]:
    """Mean absolute deviation, in grey levels of 255, from the mean of the true ground and of true objects.

    A true picture's ground and objects have one colour each. What lies within two pixels of an edge does not count.

    Args:
        pictures, true: (N, 3, S, S) uint8.
    """
    grounds: list[float] = []
    objects: list[float] = []
    for picture, truth in zip(pictures.float(), true, strict=True):
        for number, mask in enumerate(_regions(truth)):
            inside = _eroded(mask)
            if int(inside.sum()) < 9:
                continue
            values = picture[:, inside]
            deviation = float((values - values.mean(dim=1, keepdim=True)).abs().mean())
            (objects if number else grounds).append(deviation)
    return float(np.mean(grounds)), float(np.mean(objects))


def pattern(pictures: Tensor, true: Tensor, tile: int = 8) -> float:
    """How strong a pattern on the grounds is that repeats every `tile` pixels, in grey levels of 255.

    Patches can leave such a pattern. For each position in a tile, the mean of the ground's pixels at that position is
    compared with the mean of all of them; the result is the root mean square of these differences over positions,
    channels and pictures. Pixels within two of an edge do not count. A true picture has 0. Independent noise of
    deviation s alone gives s sqrt(tile^2 / number of pixels).

    Args:
        pictures, true: (N, 3, S, S) uint8, S a multiple of `tile`.
        tile: period in pixels.
    """
    found = []
    for picture, truth in zip(pictures.float(), true, strict=True):
        inside = _eroded(_regions(truth)[0])
        values = (picture - picture[:, inside].mean(dim=1)[:, None, None]) * inside
        sums, counts = (_folded(part, tile) for part in (values, inside[None].float()))
        there = counts[0] > 0
        found.append((sums[:, there] / counts[:, there]).square().mean())
    return float(torch.stack(found).mean().sqrt())


def _folded(values: Tensor, tile: int) -> Tensor:
    """(C, S, S) -> (C, tile, tile), summed over all tiles."""
    side = values.shape[-1] // tile
    return values.reshape(len(values), side, tile, side, tile).sum(dim=(1, 3))


def edge_width(pictures: Tensor, true: Tensor) -> float:
    """How wide the edges of lone objects are, as a multiple of the true pictures' width; 1 is as sharp as they.

    With c the share of the object's colour in a pixel (0 for the ground's), the width is the sum of 4 c (1 - c) over
    the pixels within four of the true edge.

    Args:
        pictures, true: (N, 3, S, S) uint8; pictures with more than one object are left out.
    """
    found, wanted = 0.0, 0.0
    for picture, truth in zip(pictures.float(), true, strict=True):
        regions = _regions(truth)
        if len(regions) != 2:
            continue
        band = ~_eroded(regions[0], 4) & ~_eroded(regions[1], 4)
        ground, thing = (truth.float()[:, mask].mean(dim=1) for mask in regions)
        along = (thing - ground) / (thing - ground).square().sum()
        for kind, values in (("found", picture), ("wanted", truth.float())):
            cover = ((values[:, band] - ground[:, None]) * along[:, None]).sum(dim=0).clamp(0, 1)
            width = float((4 * cover * (1 - cover)).sum())
            found, wanted = (found + width, wanted) if kind == "found" else (found, wanted + width)
    return found / wanted


def _regions(truth: Tensor) -> list[Tensor]:
    """(S, S) bool masks of a true picture's flat regions of 9 pixels or more: the ground first, then the objects."""
    colours = truth.long() * torch.tensor([65536, 256, 1])[:, None, None]
    values, labels, counts = torch.unique(colours.sum(dim=0), return_inverse=True, return_counts=True)
    ground = int(labels[0, 0])
    large = [label for label in range(len(values)) if int(counts[label]) >= 9 and label != ground]
    return [labels == label for label in [ground, *large]]


def _eroded(mask: Tensor, pixels: int = 2) -> Tensor:
    outside = (~mask).float()[None, None]
    padded = torch.nn.functional.pad(outside, (pixels,) * 4)
    grown = torch.nn.functional.max_pool2d(padded, 2 * pixels + 1, stride=1)
    return grown[0, 0] == 0
