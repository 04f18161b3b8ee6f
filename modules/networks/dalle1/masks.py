"""Which tokens an image token attends to: the sparse masks of DALL-E 1's Transformer (appendix B.1, figure 11).

A sequence is a prefix of text, then the image's tokens in raster order. Text is causal. Every image token sees all of
the text in every layer, and of the image what the layer's mask lets it see; no mask lets it see what follows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

MaskName = Literal["row", "column", "convolutional", "raster_convolutional", "dense"]
"""row: the tokens up to the one straight above. column: those straight above. convolutional: a square window around the
token that wraps round at the borders, as on a torus (ru-DALL-E's reading of figure 11). raster_convolutional: the same
window in raster order, "with wraparound behavior (similar to the row attention)" (figure 11): what leaves a row at one
side goes on in the neighbouring row. dense: all."""

MASKS: tuple[MaskName, ...] = get_args(MaskName)


def layer_masks(depth: int, last: MaskName = "convolutional") -> list[MaskName]:
    """The paper's order: column in layers 2, 6, 10, ... (from 1), row in the others, convolutional in the last."""
    masks: list[MaskName] = ["column" if (layer - 2) % 4 == 0 else "row" for layer in range(1, depth)]
    return [*masks, last] if depth else []


@lru_cache(maxsize=64)
def image_mask(name: MaskName, grid: int, kernel: int = 11) -> Tensor:
    """(N, N) bool on the CPU, N = grid^2: entry (i, j) says whether image token i sees image token j.

    Args:
        name: of the mask.
        grid: side of the grid of tokens.
        kernel: side of the convolutional windows, an odd number. On a torus a row of 11 tokens or fewer is seen whole.

    Raises:
        ValueError: no such mask, or an even kernel.
    """
    if name not in MASKS or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"no mask {name!r} with the kernel {kernel}; there are {', '.join(MASKS)}, kernels are odd")
    with torch.inference_mode(False), torch.device("cpu"):  # They are kept, and training needs them too.
        place = torch.arange(grid * grid)
        query, key = place[:, None], place[None]
        causal = key <= query
        if name == "row":
            return causal & (query - key <= grid)
        if name == "column":
            return causal & ((query - key) % grid == 0)
        if name == "dense":
            return causal
        if name == "raster_convolutional":
            return causal & torch.isin(query - key, _window(grid, kernel))
        near = [_around((query // grid - key // grid), grid, kernel), _around(query % grid - key % grid, grid, kernel)]
        return causal & near[0] & near[1]


def _window(grid: int, kernel: int) -> Tensor:
    """How many places before a token the places of its window lie, in raster order; those after it are negative."""
    near = torch.arange(kernel) - kernel // 2
    return (near[:, None] * grid + near).flatten()


def _around(difference: Tensor, grid: int, kernel: int) -> Tensor:
    """Whether coordinates of this difference lie within half a kernel of each other on a circle of `grid` places."""
    ahead = difference % grid
    return torch.minimum(ahead, grid - ahead) <= kernel // 2


@lru_cache(maxsize=64)
def sequence_mask(name: MaskName, prefix: int, grid: int, kernel: int, device: torch.device) -> Tensor:
    """(S, S) bool of a whole sequence, S = prefix + grid^2: causal text, then image tokens that see all of the text."""
    with torch.inference_mode(False), torch.device("cpu"):
        size = prefix + grid * grid
        mask = torch.ones(size, size, dtype=torch.bool).tril()
        mask[prefix:, prefix:] = image_mask(name, grid, kernel)
        return mask.to(device)


@lru_cache(maxsize=16)
def visible_places(name: MaskName, prefix: int, grid: int, kernel: int, device: torch.device) -> tuple[Tensor, ...]:
    """For each image token, the places (int64) in the sequence that it sees, which a cached step reads."""
    mask = sequence_mask(name, prefix, grid, kernel, torch.device("cpu"))
    with torch.inference_mode(False):
        return tuple(row.nonzero()[:, 0].to(device) for row in mask[prefix:])
