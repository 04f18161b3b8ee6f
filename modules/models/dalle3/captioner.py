"""The captioner: p(caption | F(i)), F(i) a frozen CLIP's image embedding (DALL-E 3, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import EmbeddingBatch, embeddings_of
from modules.clip.contrast import contrastive_loss
from modules.errors import InputError
from modules.models.base import Batch, Model
from modules.models.configs import Rule, check_value, number
from modules.models.data_sizes import NETWORK, CaptionReader, DataSizes
from modules.networks.dalle3.captioner import CaptionerNetwork

IGNORED = -100
MAX_SCALE = 4.6052  # ln 100: CLIP, section 2.5


@dataclass(frozen=True, eq=False)
class CaptionerModel(Model[Batch]):
    """Cross-entropy of a caption's tokens and its end, given z_i.

    Attributes:
        network: what is trained.
        contrastive_weight: of CLIP's loss between the caption, read without the image, and z_i, beside the language
            model's (2.1: "jointly pre-trained with a CLIP and a language modeling objective"); 0 is none.
        temperature: of sampling; 0 takes the most likely token.
    """

    network: CaptionerNetwork
    contrastive_weight: float = 0.0
    temperature: float = 0.0

    SETTINGS: ClassVar[Mapping[str, Rule]] = {"temperature": (number(0), "a number of 0 or more")}

    def check(self) -> None:
        for name, rule in self.SETTINGS.items():
            check_value(name, getattr(self, name), rule)
        if not self.contrastive_weight >= 0:
            raise InputError(f"contrastive_weight is {self.contrastive_weight}: give 0 or more")

    def check_data(self, sizes: DataSizes) -> None:
        """As in Model; and the data's largest token must be the network's end of a caption, or no caption ever ends."""
        super().check_data(sizes)
        found = sizes.captions()
        if found is not None and found.largest != self.network.end:
            raise InputError(
                f"{NETWORK}.vocab_size is {self.network.end + 1}, so that the token {self.network.end} ends a caption, "
                f"but the data's captions end with {found.largest}: set it to {found.largest + 1}"
            )

    @property
    def embedding_dim(self) -> int:
        return self.network.embedding_dim

    @property
    def reader(self) -> CaptionReader:
        return self.network.embedding

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Nats per token, and the weighted contrastive loss."""
        rows = embeddings_of(batch)
        found = self.validation_loss(batch, generator)
        if self.contrastive_weight == 0:
            return found
        z_t, scale = self.network.encode_text(rows.tokens), self.network.logit_scale.clamp(max=MAX_SCALE).exp()
        return found + self.contrastive_weight * contrastive_loss(rows.z_i, z_t, scale, rows.index)

    def validation_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross-entropy in nats per token, the end included."""
        rows = embeddings_of(batch)
        logits = self.network(rows.z_i, rows.tokens).float()
        return F.cross_entropy(logits.flatten(0, 1), self.targets(rows.tokens).flatten(), ignore_index=IGNORED)

    def targets(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens, with IGNORED for what comes after a caption's end."""
        ends = (tokens == self.network.end).cumsum(dim=1)
        after = (ends - (tokens == self.network.end).long()) > 0
        return torch.where(after, IGNORED, tokens)

    def output(self, batch: Batch) -> Tensor:
        rows = embeddings_of(batch)
        found: Tensor = self.network(rows.z_i, rows.tokens)
        return found

    def example_batch(self, count: int) -> EmbeddingBatch:
        z, index = torch.zeros(count, self.embedding_dim), torch.zeros(count, dtype=torch.int64)
        return EmbeddingBatch(z, z, index[:, None].expand(-1, self.network.embedding.context_length), index)

    def sample(self, z_i: Tensor, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) of unit norm, one generator each -> (B, L) tokens, 0 after a caption's end."""
        return self.network.sample(z_i, generators, self.temperature)
