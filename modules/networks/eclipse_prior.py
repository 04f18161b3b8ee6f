"""ECLIPSE's prior (2312.04655): the diffusion prior's Transformer without a timestep, evaluated once, from noise."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.networks.diffusion_prior import DiffusionPriorNetwork


class EclipsePriorNetwork(DiffusionPriorNetwork):
    """(B, D) noise, caption and z_t -> (B, D) estimate of z_i: [caption tokens, z_t, noise, learned token].

    The arguments are those of `DiffusionPriorNetwork`; nothing is ever dropped, so that `conditioning.null` has no
    meaning.
    """

    timestep = False

    def _suffix(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, 2, width)."""
        return torch.stack([self.z_i(x_t), self.query.expand(len(x_t), -1)], dim=1) + self.positions[1:]

    def draw(self, noise: Tensor, text: Tensor, z_t: Tensor, mask: Tensor | None = None) -> Tensor:
        """One evaluation: (B, D) noise of N(0, 1), what the network reads of B captions, (B, D) z_t -> (B, D)."""
        t = torch.zeros(len(noise), dtype=torch.int64, device=noise.device)
        return self(noise, t, text, z_t, None, mask)  # type: ignore[no-any-return]
