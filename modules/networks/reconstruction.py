"""A further part of CLIP's loss: z_i alone has to give back the picture, small."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

HEAD = "reconstruction"
"""Name of the head in the trained network."""

UNEXPORTED = f"{HEAD}."
"""Prefix of the head's tensors, which no export holds and which begin anew."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """How z_i is asked for the picture.

    The contrastive loss asks z_i only for what tells the training captions apart. A decoder has to guess what z_i does
    not hold. MAE-CLIP (Weers et al., 2301.07836) adds a reconstruction to CLIP's loss, too, of a masked picture; it
    found that this helps with 11 million pairs, and not with 1.4 billion. Here z_i alone gives the picture back.

    Attributes:
        weight: of the mean squared error over values in [-1, 1], beside the contrastive loss; 0 is none, as in the
            paper.
        size: side in pixels of the picture that is given back.
        width: of the head's hidden layer.

    Raises:
        ValueError: a negative weight, or a size or width below 1.
    """

    weight: float = 0.0
    size: int = 32
    width: int = 512

    def __post_init__(self) -> None:
        if self.weight < 0 or self.size < 1 or self.width < 1:
            raise ValueError(
                f"reconstruction has weight {self.weight:g}, size {self.size} and width {self.width}: give a "
                "weight of 0 or more, and a size and a width of 1 or more"
            )


class ReconstructionHead(nn.Module):
    """z_i -> hidden layer -> picture.

    Args:
        embed_dim: D.
        config: size and width.
    """

    def __init__(self, embed_dim: int, config: ReconstructionConfig) -> None:
        super().__init__()
        self.size = config.size
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, config.width), nn.SiLU(), nn.Linear(config.width, 3 * config.size**2)
        )

    def forward(self, z_i: Tensor) -> Tensor:
        """(B, D) of unit norm -> (B, 3, size, size) in about [-1, 1]."""
        scaled = z_i * z_i.shape[1] ** 0.5  # Values of about 1, as the first layer expects.
        return self.layers(scaled).unflatten(1, (3, self.size, self.size))

    def error(self, z_i: Tensor, images: Tensor) -> Tensor:
        """(B,) mean squared error.

        Args:
            z_i: (B, D) of unit norm.
            images: (B, 3, H, W) in [-1, 1].
        """
        return (self(z_i.float()) - shrunk(images, self.size)).square().mean(dim=(1, 2, 3))


def shrunk(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, size, size), antialiased: what is to be given back."""
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
