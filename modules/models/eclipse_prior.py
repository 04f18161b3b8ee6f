"""ECLIPSE's prior: z_i in one evaluation, by regression and a CLIP's contrast (Patel et al. 2312.04655)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions, embeddings_of
from modules.diffusion.noise import randn_per_image
from modules.errors import InputError
from modules.models.base import Batch, Prior
from modules.models.configs import Rule, check_value, number
from modules.models.data_sizes import CaptionReader
from modules.networks.eclipse_prior import EclipsePriorNetwork
from modules.networks.frozen_text import real_tokens

WEIGHT: Rule = (number(0), "a number of 0 or more")


@dataclass(frozen=True, eq=False)
class EclipsePriorModel(Prior):
    """Squared distance to z_i, and the cross-entropy of finding the caption of each drawn z_i and the other way round.

    Attributes:
        network: what is trained.
        contrast_weight: of the cross-entropy (the paper's lambda, 0.2).
        logit_scale: of its cosines: OpenAI's CLIPs have 100.
    """

    network: EclipsePriorNetwork
    contrast_weight: float = 0.2
    logit_scale: float = 100.0

    def check(self) -> None:
        for name in ("contrast_weight", "logit_scale"):
            check_value(name, getattr(self, name), WEIGHT)
        if self.network.conditioning.standardise:
            raise InputError(
                "model.network.conditioning.standardise: ECLIPSE's prior gives z_i itself; set it to false"
            )

    @property
    def reader(self) -> CaptionReader:
        return self.network.tokens

    @property
    def raw(self) -> bool:
        return self.network.conditioning.raw

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Scalar; the noise is the generator's, which is on the CPU."""
        rows = embeddings_of(batch)
        noise = torch.randn(rows.z_i.shape, generator=generator).to(rows.z_i.device)
        drawn = self._drawn(noise, rows.captions)
        regression = F.mse_loss(drawn, rows.z_i)
        if self.contrast_weight == 0:
            return regression
        found, z_t = F.normalize(drawn, dim=1), F.normalize(rows.z_t, dim=1)
        logits = self.logit_scale * found @ z_t.T
        place = torch.arange(len(logits), device=logits.device)
        contrast = (F.cross_entropy(logits, place) + F.cross_entropy(logits.T, place)) / 2
        return regression + self.contrast_weight * contrast

    def _drawn(self, noise: Tensor, captions: Captions) -> Tensor:
        mask = real_tokens(captions.tokens) if self.network.conditioning.padding_mask else None
        return self.network.draw(noise, self.text(captions), captions.z_t, mask)

    def output(self, batch: Batch) -> Tensor:
        rows = embeddings_of(batch)
        return self._drawn(torch.zeros_like(rows.z_i), rows.captions)

    @torch.no_grad()
    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) for each caption, in one evaluation; of unit norm unless `raw`."""
        noise = randn_per_image(generators, captions.z_t.shape, captions.z_t.device, captions.z_t.dtype)
        z_i = self._drawn(noise, captions)
        return z_i if self.raw else F.normalize(z_i, dim=1)
