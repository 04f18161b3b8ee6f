"""What the codes of a dVAE look like: each drawn alone, and pictures as mosaics of them (DALL-E 1, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.models.dalle1.dvae import DVAEModel

AROUND = 9
"""Side of the grid of equal tokens, at most, from whose middle a code's patch is cut."""


@torch.no_grad()
def patches(dvae: DVAEModel, codes: Tensor, batch_size: int = 64) -> Tensor:
    """(n,) int64 codes -> (n, 3, f, f) in [-1, 1]: the middle token of a grid that is filled with one code.

    A token decodes to more than its own square of f x f pixels; among equal ones nothing of another code is in it.

    Args:
        batch_size: codes at once; changes no patch.
    """
    side, factor = min(AROUND, dvae.grid), dvae.network.factor
    first = side // 2 * factor
    found = []
    for part in codes.split(batch_size):
        pictures = dvae.decode(part[:, None, None].expand(-1, side, side))
        found.append(pictures[:, :, first : first + factor, first : first + factor])
    return torch.cat(found)


def mosaic(tokens: Tensor, codes: Tensor, drawn: Tensor) -> Tensor:
    """(B, h, w) tokens -> (B, 3, h f, w f): the patch of each token in its place.

    Args:
        tokens: all their values are among `codes`.
        codes: (n,) int64, ascending, each once.
        drawn: (n, 3, f, f) their patches.
    """
    tiles = drawn[torch.searchsorted(codes, tokens)]  # (B, h, w, 3, f, f)
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
