"""Ways in which a diffusion prior may take captions and CLIP embeddings: masks, raw embeddings, the null condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PriorConditioning:
    """The defaults are the paper's way as this package has it; Karlo's and Kandinsky's priors have all four others.

    Attributes:
        padding_mask: attention does not look at padding.
        raw: the CLIP's embeddings are its own, not of unit norm: z_t is not scaled by sqrt(D), and what is drawn is not
            normalised.
        null: what stands for a dropped caption and z_t: "learned" vectors, or the "empty_caption" as the CLIP gives it.
        standardise: diffuse (z_i - mean) / deviation, by those of each dimension over the training embeddings, instead
            of z_i times one number.
    """

    padding_mask: bool = False
    raw: bool = False
    null: Literal["learned", "empty_caption"] = "learned"
    standardise: bool = False


class Standardisation(nn.Module):
    """(z - mean) / std in each dimension, and back; the identity until it is fitted.

    Args:
        dim: D of the embeddings.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Set mean and deviation from embeddings z (N, D) of the training data.

        Raises:
            ValueError: fewer than two embeddings, or a dimension in which all are the same.
        """
        if len(z) < 2:
            raise ValueError(f"standardising needs two embeddings or more, found {len(z)}")
        x = z.cpu().double()  # Once a training, and not every accelerator has float64.
        std = x.std(dim=0)
        if not bool((std > 0).all()):
            raise ValueError(f"all embeddings are the same in dimension {int(std.argmin())}")
        self.mean.copy_(x.mean(dim=0).to(self.mean.dtype))
        self.std.copy_(std.to(self.std.dtype))

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) embeddings -> (B, D) of mean 0 and deviation 1."""
        return (z - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """(B, D) of mean 0 and deviation 1 -> embeddings."""
        return x * self.std + self.mean
