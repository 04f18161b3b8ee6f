"""The autoregressive prior: p(z_i | y) as a sequence of quantised principal components (unCLIP, section 2.2).

This file is the only place where z_i becomes codes and codes become z_i, where the dot-product token is chosen, and
where the logits are guided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions, embeddings_of
from modules.diffusion.guidance import guide_logits
from modules.errors import InputError
from modules.models.base import Batch, Evaluations, Prior
from modules.models.configs import GUIDANCE, Rule, check_value, number
from modules.models.data_sizes import CaptionReader, DataSizes, check_share
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.networks.priors.ar_prior import ARPriorNetwork

CODEC = "codec."
"""Prefix of the codec's buffers in an export's file of weights."""


@dataclass(frozen=True, eq=False)
class ARPriorModel(Prior):
    """Cross-entropy of the codes of z_i, given caption, z_t and the dot product of z_i and z_t.

    Attributes:
        network: what is trained.
        codec: PCA and buckets, fitted to the training split before the first step.
        drop_text: how often caption and z_t are dropped together.
        guidance_scale: scale of classifier-free guidance on the logits; 1 is none.
        percentile: the dot-product token is drawn from the training distribution above it; the paper's best is 50.
        temperature: divides the logits; 0 takes the most likely code.
    """

    network: ARPriorNetwork
    codec: EmbeddingCodec
    drop_text: float = 0.1
    guidance_scale: float = 1.0
    percentile: float = 50.0
    temperature: float = 1.0

    SETTINGS: ClassVar[Mapping[str, Rule]] = {
        "guidance_scale": GUIDANCE,
        "percentile": (number(0, 100, below=True), "a number of 0 or more, below 100"),
        "temperature": (number(0), "a number of 0 or more"),
    }

    def check(self) -> None:
        for name, rule in self.SETTINGS.items():
            check_value(name, getattr(self, name), rule)
        for name in ("embedding_dim", "num_codes", "num_buckets", "num_dot_buckets"):
            ours, theirs = getattr(self.network, name), getattr(self.codec, name)
            if ours != theirs:
                raise InputError(f"model.network.{name} is {ours}, model.codec.{name} is {theirs}: make them equal")

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)

    @property
    def reader(self) -> CaptionReader:
        return self.network.tokens

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross-entropy in nats per code, caption and z_t dropped for some."""
        count = len(embeddings_of(batch).z_i)
        keep = torch.rand(count, generator=generator) >= self.drop_text
        return self._cross_entropy(batch, keep.to(embeddings_of(batch).z_i.device))

    def validation_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross-entropy in nats per code, nothing dropped."""
        return self._cross_entropy(batch, None)

    def _cross_entropy(self, batch: Batch, keep: Tensor | None) -> Tensor:
        logits, codes = self._logits(batch, keep)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())  # autocast gives bfloat16 logits

    def _logits(self, batch: Batch, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, K, buckets) and the true codes (B, K)."""
        rows = embeddings_of(batch)
        codes = self.codec.encode(rows.z_i)
        dot = self.codec.encode_dot(rows.z_i, rows.z_t)
        return self.network(self.text(rows.captions), rows.z_t, dot, codes, keep), codes

    def output(self, batch: Batch) -> Tensor:
        rows = embeddings_of(batch)
        codes = rows.index.new_zeros(len(rows.index), self.network.num_codes)
        found: Tensor = self.network(self.text(rows.captions), rows.z_t, rows.index, codes, None)
        return found

    @property
    def evaluations(self) -> int:
        return self.codec.kept * self.copies

    @property
    def copies(self) -> int:
        """How often the network is evaluated for one code: 2 with classifier-free guidance."""
        return 2 if self.guidance_scale != 1 else 1

    def sampling_parts(self) -> Iterator[Evaluations]:
        """The text once, then the codes through the key/value cache: their cost grows evenly from first to last."""
        rows, network, count = self.example_batch(1), self.network, self.codec.kept
        text = self.text(rows.captions)
        yield self.copies, lambda: network.encode(text, rows.z_t)
        cache = network.encode(text, rows.z_t)
        start, x = cache.length, torch.zeros(1, 1, network.transformer.width)

        def step() -> Tensor:
            found: Tensor = network.out(network.transformer(x, cache=cache)[:, -1])
            return found

        for place in (0, count - 1):
            cache.length = start + place
            yield self.evaluations / 2, step

    @torch.no_grad()
    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) of unit norm for each caption.

        The dot-product token is drawn from the training distribution above the percentile, then the codes one after
        another.
        """
        dot, negative = self.codec.draw_dot(generators, self.percentile), captions.negative
        codes = self.network.sample(
            self.text(captions),
            captions.z_t,
            dot,
            generators,
            guidance=None if self.guidance_scale == 1 else self.guided,
            negative=None if negative is None else (self.text(negative), negative.z_t),
            temperature=self.temperature,
            length=self.codec.kept,
        )
        return self.codec.decode(codes)

    def guided(self, logits: Tensor) -> Tensor:
        """(2B, V) logits, [conditional, unconditional] -> (B, V)."""
        return guide_logits(logits, self.guidance_scale)

    def tensors(self) -> dict[str, Tensor]:
        return {CODEC + name: tensor for name, tensor in self.codec.state_dict().items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> ARPriorModel:
        own = {k.removeprefix(CODEC): v for k, v in tensors.items() if k.startswith(CODEC)}
        self.codec.load_state_dict(own, assign=True)
        return self
