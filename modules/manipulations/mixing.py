"""Several pictures and captions as one z_i, each with a weight (as Kandinsky's users mix them, 2310.03502)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions
from modules.conditions import DEFAULT
from modules.errors import InputError
from modules.seeds import ImageSeeds
from modules.trained_run import TrainedRun

PICTURES_ALONE = "image_embedding"
"""The condition of a mix without captions, which needs no prior."""

SMALLEST = 1e-3
"""Length of a sum of weighted unit vectors, as a share of the weights, below which it has no direction of its own."""


@dataclass(frozen=True)
class Mix:
    """The pictures and captions to mix, with their weights.

    Attributes:
        images: (M, 3, S, S) in [-1, 1]; None for captions alone.
        captions: a prior draws their z_i.
        weights: one a picture, then one a caption. Only their ratios count; below 0 leads away.
    """

    images: Tensor | None
    captions: tuple[str, ...]
    weights: tuple[float, ...]

    def condition(self, prior: str) -> str:
        """The condition that the pictures are drawn under: `prior`, where there are captions for it."""
        return prior if self.captions else PICTURES_ALONE

    def __post_init__(self) -> None:
        count = len(self.captions) + (0 if self.images is None else len(self.images))
        if count == 0:
            raise InputError("nothing was given to mix: name pictures or captions")
        if len(self.weights) != count:
            raise InputError(f"{len(self.weights)} weights do not go with {count} pictures and captions: give one each")
        if not all(math.isfinite(weight) for weight in self.weights) or not any(self.weights):
            raise InputError(f"weights are numbers, one or more of them other than 0, not {list(self.weights)}")


def weighted_sum(parts: Tensor, weights: Sequence[float], raw: bool = False) -> Tensor:
    """A weighted sum of embeddings, of their own kind.

    Args:
        parts: (K, B, D), of unit norm unless `raw`.
        weights: K of them.
        raw: whether embeddings are a CLIP's own, whose norm counts.

    Returns:
        (B, D): sum of w_k z_k, normalised; raw ones are divided by the sum of w_k, as Kandinsky's users have weights of
        sum 1.

    Raises:
        InputError: parts cancel, so that nothing but rounding would say where the sum points.
    """
    own = torch.tensor(weights, dtype=parts.dtype, device=parts.device)
    total, share = (own[:, None, None] * parts).sum(dim=0), float(own.sum())
    least = SMALLEST * float((own.abs()[:, None] * parts.norm(dim=2)).sum(dim=0).min())
    if float(total.norm(dim=1).min()) < least or (raw and share <= 0):
        raise InputError("these pictures and captions cancel under their weights, so that nothing is left to draw")
    return total / share if raw else F.normalize(total, dim=1)


def mixed(
    system: TrainedRun, mix: Mix, seeds: ImageSeeds, prior: str = DEFAULT, negative: Captions | None = None
) -> Tensor:
    """z_i (B, D) of a mix, for B pictures; of unit norm unless the CLIP's embeddings are raw.

    Args:
        system: a run with a CLIP, and with a prior where captions are mixed.
        mix: what to mix.
        seeds: of the B pictures; the prior draws each caption's z_i for each of them.
        prior: the condition by which captions have a z_i.
        negative: B captions that the prior's guidance leads away from.
    """
    count = len(seeds)
    parts = [] if mix.images is None else list(system.embed_image(mix.images)[:, None].expand(-1, count, -1))
    for caption in mix.captions:
        tokens, z_t = system.embed_text([caption] * count)
        z_i = system.embedding(prior, tokens, z_t, seeds.generators("prior"), None, negative)
        if z_i is None:
            raise InputError(f"the condition {prior} gives captions no z_i, so they cannot be mixed: name a prior")
        parts.append(z_i)
    return weighted_sum(torch.stack(parts), mix.weights, system.raw)


def draw_mix(
    system: TrainedRun,
    mix: Mix,
    seeds: ImageSeeds,
    caption: str | None = None,
    negative: str | None = None,
    prior: str = DEFAULT,
) -> Tensor:
    """Pictures (B, 3, s, s) in [-1, 1] of a mix, at the decoder's size: one for each of the seeds.

    Args:
        caption: what the decoder reads beside z_i; none by default.
        negative: what prior and decoder are guided away from.
    """
    away = system.negative_captions(negative, len(seeds))
    z_i = mixed(system, mix, seeds, prior, away)
    texts = [caption or ""] * len(seeds)
    tokens = system.clip.tokenize(texts).to(system.device)
    tokens = tokens if caption else torch.zeros_like(tokens)
    not_this = system.negative_of(mix.condition(prior), away, seeds.generators("prior"))
    captions = texts if caption else None
    return system.decode(tokens, z_i, seeds.generators("decoder"), "decoder", captions, not_this)
