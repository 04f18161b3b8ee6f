"""CLIP's contrastive loss over the pairs of all replicas (CLIP, figure 3)."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn import all_gather


def contrastive_loss(
    z_i: Tensor, z_t: Tensor, scale: Tensor, index: Tensor, *, rank: int = 0, world: int = 1
) -> Tensor:
    """The symmetric cross-entropy of finding the caption of each picture and the picture of each caption.

    The negatives are the other pairs of all replicas. A pair that occurs again, as where a batch reaches from one pass
    over the data into the next, is no negative of itself. Gradients flow to all replicas' embeddings. If no gradient is
    wanted, replicas may hold different numbers of pairs.

    Args:
        z_i, z_t: (B, D) embeddings of unit norm of this replica's pairs.
        scale: () what their products are multiplied with.
        index: (B,) int64 which pair of the data each is.
        rank, world: this replica's number, and how many there are.

    Returns:
        () the mean over this replica's pairs. The mean over replicas, weighted by their pairs, is the loss of all.
    """
    all_i, all_t, all_index, first = z_i, z_t, index, 0
    if world > 1:
        sizes = [len(index)] * world if torch.is_grad_enabled() else _sizes(index, world)
        first = sum(sizes[:rank])
        all_i, all_t, all_index = (gathered(x, sizes) for x in (z_i, z_t, index))
    place = torch.arange(first, first + len(index), device=index.device)
    again = index[:, None] == all_index
    again[torch.arange(len(index), device=index.device), place] = False
    logits = (scale * one @ other.T for one, other in ((z_i, all_t), (z_t, all_i)))
    by_picture, by_caption = (x.masked_fill(again, -torch.inf) for x in logits)
    return (F.cross_entropy(by_picture, place) + F.cross_entropy(by_caption, place)) / 2


def _sizes(index: Tensor, world: int) -> list[int]:
    """How many pairs each replica holds."""
    own = torch.tensor([len(index)], device=index.device)
    found = [torch.zeros_like(own) for _ in range(world)]
    torch.distributed.all_gather(found, own)
    return [int(size) for size in found]


def gathered(x: Tensor, sizes: list[int]) -> Tensor:
    """(B, ...) of this replica -> (sum of sizes, ...) of all, one behind another; every replica must call this."""
    if x.requires_grad and torch.is_grad_enabled():
        with warnings.catch_warnings():  # torch means to replace it by one that older versions do not have.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.cat(all_gather(x), dim=0)
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
