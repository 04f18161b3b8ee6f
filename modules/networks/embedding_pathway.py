"""How a decoder reads a CLIP embedding, beside the paper's linear projections: whitened, and through a small MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.transformer import scale_to_unit_variance

SHRINKAGE = 0.01
"""Added to each variance before it is divided by, as a share of the largest, so that noise is not blown up."""


@dataclass(frozen=True)
class EmbeddingPathway:
    """How z_i is transformed before its projections. The defaults are the paper's: only a scale.

    Attributes:
        whiten: subtract the mean of the training embeddings and multiply by the inverse root of their covariance. A
            CLIP's embeddings lie in a narrow cone (Liang et al. 2203.02053), so that most of what tells them apart
            lies in directions of little variance.
        hidden_width: width of a two-layer MLP whose output joins z_i; 0 for no MLP.
        spatial_map: also project to a map over the U-Net's lowest resolution, which is added there.
        raw: the embeddings are a CLIP's own, not of unit norm (Karlo): they are not scaled by sqrt(D).
        learned_null: a learned vector stands for no embedding, instead of zero (Karlo).
    """

    whiten: bool = False
    hidden_width: int = 0
    spatial_map: bool = False
    raw: bool = False
    learned_null: bool = False


class EmbeddingNoise(NamedTuple):
    """Noise on B embeddings, in the scale in which their projections read them (mean square 1).

    Attributes:
        level: (B,) int64, 0 for none.
        signal: (B,) what the embedding is multiplied with; 1 at level 0.
        noise: (B, D) what is added, scaled already; 0 at level 0.
    """

    level: Tensor
    signal: Tensor
    noise: Tensor


class Whitening(nn.Module):
    """(z - mean) W with W = c (C + 0.01 lambda_max)^(-1/2), scaled to a mean square of 1; the identity until fitted.

    Args:
        dim: D of the embeddings.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.zeros(dim, dim))
        self.matrix.diagonal().fill_(dim**0.5)

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Set mean and matrix from embeddings z (N, D) of the training data.

        Raises:
            ValueError: fewer than two embeddings, or all the same.
        """
        if len(z) < 2:
            raise ValueError(f"whitening needs two embeddings or more, found {len(z)}")
        x = z.cpu().double()  # Once a training, and not every accelerator has float64.
        covariance = torch.cov(x.T)
        values, vectors = torch.linalg.eigh(covariance)
        if values[-1] <= 0:
            raise ValueError("whitening needs embeddings that differ; all are the same")
        root = (vectors * (values.clamp(min=0) + SHRINKAGE * values[-1]).rsqrt()) @ vectors.T
        scale = (len(covariance) / (root @ covariance @ root).trace()).sqrt()
        self.mean.copy_(x.mean(dim=0).to(self.mean.dtype))
        self.matrix.copy_((scale * root).to(self.matrix.dtype))

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return (z - self.mean) @ self.matrix.to(z.dtype)


class EmbeddingFeatures(nn.Module):
    """The features of a CLIP embedding that a decoder's projections read.

    Args:
        dim: D of the embedding.
        pathway: what is done to it.
    """

    def __init__(self, dim: int, pathway: EmbeddingPathway) -> None:
        super().__init__()
        self.whitening = Whitening(dim) if pathway.whiten else None
        self.first, self.second = None, None
        if pathway.hidden_width:
            self.first = _scaled(nn.Linear(dim, pathway.hidden_width))
            self.second = _scaled(nn.Linear(pathway.hidden_width, pathway.hidden_width))
        self.width, self.dim, self.raw = dim + pathway.hidden_width, dim, pathway.raw
        self.null = nn.Parameter(torch.zeros(dim)) if pathway.learned_null else None

    def forward(
        self, z: Tensor, dtype: torch.dtype, keep: Tensor | None = None, noised: EmbeddingNoise | None = None
    ) -> Tensor:
        """(B, D) embeddings -> (B, width) of type `dtype`; where keep (B,) is False, of no embedding."""
        if self.whitening is not None:
            z = self.whitening(z)
        elif not self.raw:
            z = scale_to_unit_variance(z)
        z, none = z.to(dtype), 0.0 if self.null is None else self.null.to(dtype)
        if noised is not None:
            z = noised.signal[:, None].to(dtype) * z + noised.noise.to(dtype)
        return self.features(z if keep is None else torch.where(keep[:, None], z, none))

    def absent(self, count: int, like: Tensor) -> Tensor:
        """(count, width) of no embedding, of the type and on the device of `like`."""
        none = like.new_zeros(count, self.dim) if self.null is None else self.null.to(like.dtype).expand(count, -1)
        return self.features(none)

    def features(self, z: Tensor) -> Tensor:
        """(B, D) scaled or whitened embeddings, 0 for none -> (B, width)."""
        if self.first is None or self.second is None:
            return z
        h = F.silu(self.second(F.silu(self.first(z))))
        return torch.cat([z, F.rms_norm(h, h.shape[-1:])], dim=1)


def _scaled(layer: nn.Linear) -> nn.Linear:
    """Weights of deviation 1.5 / sqrt(fan-in): the default's outputs are ten times too small beside z_i's own."""
    nn.init.normal_(layer.weight, std=1.5 * layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
