"""The directions in which z_i varies most: the axes along which a person can move a picture (unCLIP, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.errors import InputError
from modules.networks.embedding_pathway import SHRINKAGE, Whitening


@dataclass(frozen=True)
class Components:
    """Principal components of the training embeddings, those of most variance first.

    Attributes:
        mean: (D,) of the embeddings.
        directions: (D, D), a component of unit norm in each row.
        deviations: (D,) standard deviation of the embeddings along each.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    def coordinates(self, z_i: Tensor) -> Tensor:
        """(B, D) embeddings -> (B, D) where they lie on the components, in standard deviations."""
        return (z_i - self.mean) @ self.directions.T / self.deviations.clamp(min=1e-8)

    def moved(self, z_i: Tensor, shifts: Tensor, raw: bool = False) -> Tensor:
        """z_i (B, D) moved by `shifts` (B, K) standard deviations along the first K components.

        Of unit norm, unless embeddings are `raw`, a CLIP's own.
        """
        count = shifts.shape[1]
        step = (shifts * self.deviations[:count]) @ self.directions[:count]
        return z_i + step if raw else F.normalize(z_i + step, dim=1)


def components_of(z_i: Tensor) -> Components:
    """Components of embeddings (N, D).

    Raises:
        InputError: fewer than two embeddings.
    """
    if len(z_i) < 2:
        raise InputError(f"principal components need two embeddings or more, found {len(z_i)}")
    x = z_i.cpu().double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    return _largest_first(x.mean(dim=0), vectors.T, values)


def components_of_whitening(whitening: Whitening) -> Components:
    """Components that a decoder's whitening was fitted to, so that a run shows them without its embeddings.

    The matrix is W = c (C + s)^(-1/2) with s = 0.01 lambda_max, so its eigenvectors are those of the covariance C, and
    lambda_k / lambda_max = (1 + 0.01) (w_min / w_k)^2 - 0.01. Embeddings have unit norm, which gives the scale:
    trace C = 1 - |mean|^2.
    """
    mean, matrix = whitening.mean.cpu().double(), whitening.matrix.cpu().double()
    roots, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    ratios = ((1 + SHRINKAGE) * (roots[0] / roots) ** 2 - SHRINKAGE).clamp(min=0)
    values = ratios * (1 - mean.square().sum()).clamp(min=0) / ratios.sum()
    return _largest_first(mean, vectors.T, values)


def _largest_first(mean: Tensor, directions: Tensor, values: Tensor) -> Components:
    order = values.argsort(descending=True)
    return Components(mean.float(), directions[order].float(), values[order].clamp(min=0).sqrt().float())
