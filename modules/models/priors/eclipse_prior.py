"""ECLIPSE's released prior: z_i in one evaluation from noise (Patel et al. 2312.04655, equations 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions, embeddings_of
from modules.diffusion.noise import randn_per_image
from modules.errors import InputError
from modules.models.base import Batch, Prior
from modules.models.configs import check_value
from modules.models.data_sizes import CaptionReader
from modules.models.priors.projection_prior import TEMPERATURE, WEIGHT, contrastive
from modules.networks.frozen_text import real_tokens
from modules.networks.priors.eclipse_prior import EclipsePriorNetwork


@dataclass(frozen=True, eq=False)
class EclipsePriorModel(Prior):
    """Mean squared error to z_i, and `contrastive` of what is drawn.

    Attributes:
        network: what is trained.
        contrastive_weight: the paper's lambda, 0.2.
        temperature: of the contrastive loss; OpenAI's CLIPs have 0.01.
    """

    network: EclipsePriorNetwork
    contrastive_weight: float = 0.2
    temperature: float = 0.01

    RAW_SETTING: ClassVar[str] = "conditioning.raw"

    def check(self) -> None:
        super().check()
        check_value("contrastive_weight", self.contrastive_weight, WEIGHT)
        check_value("temperature", self.temperature, TEMPERATURE)
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
        if self.contrastive_weight == 0:
            return regression
        z_t = F.normalize(rows.z_t, dim=1)  # Raw embeddings are not of unit norm.
        return regression + self.contrastive_weight * contrastive(drawn, z_t, rows.tokens, self.temperature)

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
