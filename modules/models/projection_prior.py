"""The priors without diffusion: z_i as a function of the caption, by squared error, or with ECLIPSE's contrastive loss.

ECLIPSE (Patel et al. 2312.04655) claims that such a prior draws what the caption says at least as well as a diffusion
prior, and that pictures are no less diverse for it. Its "projection" baseline is the same without the contrastive loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions, embeddings_of
from modules.models.base import Batch, Prior
from modules.models.configs import Rule, check_value, number
from modules.models.data_sizes import CaptionReader, DataSizes, check_share
from modules.networks.projection_prior import ProjectionPriorNetwork

WEIGHT: Rule = (number(0, 1000), "a number from 0 to 1,000")
TEMPERATURE: Rule = (number(1e-3, 100), "a number from 0.001 to 100")


@dataclass(frozen=True, eq=False)
class ProjectionPriorModel(Prior):
    """|z_i - g(y)|^2 + contrastive_weight x the contrastive loss (ECLIPSE, equations 3 to 5).

    The squared distance of unit vectors is the mean squared error of embeddings whose dimensions have variance 1, as
    ECLIPSE's have, so that its 0.2 means the same here.

    Attributes:
        network: what is trained.
        contrastive_weight: 0 is the projection baseline, 0.2 ECLIPSE.
        temperature: of the contrastive loss; CLIP's at its start is 0.07.
        drop_text: how often caption and z_t are dropped together; 1 learns the mean of z_i, and is sampled so.
    """

    network: ProjectionPriorNetwork
    contrastive_weight: float = 0.0
    temperature: float = 0.07
    drop_text: float = 0.0

    def check(self) -> None:
        super().check()
        check_value("contrastive_weight", self.contrastive_weight, WEIGHT)
        check_value("temperature", self.temperature, TEMPERATURE)

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)
        super().check_settings(sizes)

    @property
    def reader(self) -> CaptionReader:
        return self.network.tokens

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        rows = embeddings_of(batch)
        keep = None
        if self.drop_text > 0:
            keep = (torch.rand(len(rows.z_i), generator=generator) >= self.drop_text).to(rows.z_i.device)
        found = self.network(self.text(rows.captions), rows.z_t, keep)
        squared = (found - rows.z_i).square().sum(dim=1).mean()
        if self.contrastive_weight == 0:
            return squared
        return squared + self.contrastive_weight * contrastive(found, rows.z_t, rows.tokens, self.temperature)

    def validation_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The squared distance alone, nothing dropped: comparable between the two."""
        return (self.output(batch) - embeddings_of(batch).z_i).square().sum(dim=1).mean()

    def output(self, batch: Batch) -> Tensor:
        rows = embeddings_of(batch)
        return self._found(rows.captions)

    @torch.no_grad()
    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) of unit norm; the same one at every draw."""
        return F.normalize(self._found(captions), dim=1)

    def _found(self, captions: Captions) -> Tensor:
        without = self.drop_text == 1
        keep = torch.zeros(len(captions.z_t), dtype=torch.bool, device=captions.z_t.device) if without else None
        found: Tensor = self.network(self.text(captions), captions.z_t, keep)
        return found


def contrastive(found: Tensor, z_t: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each prediction's caption among those of the batch, by cosine (ECLIPSE, equation 4).

    One direction only: predictions look for captions, not captions for predictions. Differs from ECLIPSE: a caption
    with the same words as the own one is no negative.

    Args:
        found: (B, D) predicted z_i, of any norm.
        z_t: (B, D) of unit norm.
        tokens: (B, L) of the captions, by which equal ones are known.
        temperature: what cosines are divided by.

    Returns:
        () mean over the batch.
    """
    logits = F.normalize(found, dim=1) @ z_t.T / temperature
    place = torch.arange(len(found), device=found.device)
    same = (tokens[:, None] == tokens[None]).all(dim=2) & (place[:, None] != place)
    return F.cross_entropy(logits.masked_fill(same, -torch.inf), place)
