"""A frozen CLIP's text tower in place of a network's own text Transformer (Karlo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class CaptionFeatures(NamedTuple):
    """The outputs of a frozen CLIP's text tower for B captions.

    Attributes:
        features: (B, L, F) the output of its final layer norm at every token.
        z_t: (B, D) its embeddings.
        mask: (B, L) bool, True up to the last token that is not padding; none is True for a dropped caption.
    """

    features: Tensor
    z_t: Tensor
    mask: Tensor

    def rows(self, chosen: Tensor) -> CaptionFeatures:
        """The outputs for some of the captions: (B') int64 positions -> B' captions."""
        return CaptionFeatures(self.features[chosen], self.z_t[chosen], self.mask[chosen])


def real_tokens(tokens: Tensor) -> Tensor:
    """(B, L) int64 -> (B, L) bool, True up to the last token that is not 0: a 0 before it is a token, not padding."""
    return (tokens != 0).flip(1).cumsum(1).flip(1) > 0


class EmptyCaption(nn.Module):
    """The empty caption as a frozen CLIP gives it, which stands for a dropped one: buffers, 0 until they are set.

    Args:
        shape: shape of its caption: (L, F) features, or (L,) tokens.
        dim: D of z_t.
    """

    text: Tensor
    z_t: Tensor
    mask: Tensor

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.register_buffer("text", torch.zeros(shape, dtype=torch.float32 if len(shape) == 2 else torch.int64))
        self.register_buffer("z_t", torch.zeros(dim))
        self.register_buffer("mask", torch.ones(shape[0], dtype=torch.bool))

    @torch.no_grad()
    def set(self, text: Tensor, z_t: Tensor, mask: Tensor) -> None:
        """Take these: (L, F) features or (L,) tokens, (D,) and (L,)."""
        for buffer, value in ((self.text, text), (self.z_t, z_t), (self.mask, mask)):
            buffer.copy_(value)

    def instead(self, text: Tensor, z_t: Tensor, mask: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The captions' text, z_t and mask, and the empty caption's where keep (B,) is False."""
        shape = (-1, *[1] * (text.ndim - 1))
        return (
            torch.where(keep.view(shape), text, self.text.to(text.dtype)),
            torch.where(keep[:, None], z_t, self.z_t.to(z_t.dtype)),
            torch.where(keep[:, None], mask, self.mask),
        )


@dataclass(frozen=True)
class FrozenTextConfig:
    """A decoder's caption as a frozen CLIP reads it.

    Attributes:
        feature_dim: F of the CLIP's features of a token.
        z_t_dim: D of its embeddings.
        padding_mask: attention does not look at padding.
    """

    feature_dim: int
    z_t_dim: int
    padding_mask: bool = True


class FrozenText(nn.Module):
    """Features and z_t of a frozen CLIP -> tokens of context, and a vector that joins the timestep's embedding (Karlo).

    Args:
        config: widths of what goes in.
        context_length: L of the captions.
        width: of a token of context.
        emb_width: of the vector.
    """

    vocab_size = None

    def __init__(self, config: FrozenTextConfig, context_length: int, width: int, emb_width: int) -> None:
        super().__init__()
        self.feature_dim, self.z_t_dim, self.context_length = config.feature_dim, config.z_t_dim, context_length
        self.padding_mask = config.padding_mask
        self.project, self.norm = nn.Linear(config.feature_dim, width), nn.LayerNorm(width)
        self.z_t = nn.Linear(config.z_t_dim, emb_width)
        self.empty = EmptyCaption((context_length, config.feature_dim), config.z_t_dim)

    def forward(self, captions: CaptionFeatures, keep: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The context (B, L, width), the vector (B, emb_width), and the context's mask (B, L), None for no mask.

        A caption that is all padding is the empty caption, and so is one where keep (B,) is False.
        """
        there = captions.mask.any(dim=1)
        features, z_t, mask = self.empty.instead(*captions, keep=there if keep is None else keep & there)
        dtype = self.project.weight.dtype
        context = self.norm(self.project(features.to(dtype)))
        return context, self.z_t(z_t.to(dtype)), mask if self.padding_mask else None
