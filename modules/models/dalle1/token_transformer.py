"""The prior over text and image tokens: DALL-E 1's Transformer (section 2.2), its loss and its sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch, embeddings_of
from modules.diffusion.guidance import guide_logits
from modules.errors import InputError
from modules.models.base import Evaluations, Model
from modules.models.configs import GUIDANCE, Rule, check_value, number
from modules.models.dalle1.dvae import DVAEModel
from modules.models.data_sizes import NETWORK, CaptionReader, DataSizes, check_share
from modules.networks.dalle1.token_transformer import TokenTransformerNetwork
from modules.placement.exact import exact

TEXT_WEIGHT = 1 / 8
"""Of the text's cross-entropy; the image's has 7/8 (section 2.2)."""


@dataclass(frozen=True)
class TokenTerms:
    """Mean cross-entropies in nats a token: `text` over the tokens of captions without padding, `image` over all."""

    text: Tensor
    image: Tensor

    @property
    def loss(self) -> Tensor:
        """1/8 of the text's and 7/8 of the image's."""
        return TEXT_WEIGHT * self.text + (1 - TEXT_WEIGHT) * self.image


@dataclass(frozen=True, eq=False)
class TokenTransformerModel(Model[ImageTextBatch]):
    """Cross-entropy of a caption's tokens and of its picture's, which a trained dVAE gives.

    Attributes:
        network: what is trained.
        drop_text: how often the caption is left out in training; the paper's 0. Guidance needs more.
        guidance_scale: of classifier-free guidance on the logits; 1 is none, as in the paper.
        temperature: divides the logits; 0 takes the most likely token. The paper's is 1.
        dvae: gives the pictures' tokens in training; no part of an export, whose samples are tokens.
    """

    network: TokenTransformerNetwork
    drop_text: float = 0.0
    guidance_scale: float = 1.0
    temperature: float = 1.0
    dvae: DVAEModel | None = None

    STATE: ClassVar[tuple[str, ...]] = ("dvae",)
    SETTINGS: ClassVar[Mapping[str, Rule]] = {
        "guidance_scale": GUIDANCE,
        "temperature": (number(0), "a number of 0 or more"),
    }

    def check(self) -> None:
        for name, rule in self.SETTINGS.items():
            check_value(name, getattr(self, name), rule)
        if self.dvae is not None:
            check_tokens(self.network, self.dvae)

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)

    @property
    def reader(self) -> CaptionReader:
        return self.network.text

    @property
    def takes_pictures(self) -> bool:
        return True

    def tokens_of(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [-1, 1] -> (B, N) tokens in raster order: the most likely codes, without noise.

        Raises:
            InputError: there is no dVAE.
        """
        if self.dvae is None:
            raise InputError("the token Transformer needs a dVAE for the tokens of pictures: give model.init_args.dvae")
        return self.dvae.encode(images).flatten(1)

    def loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        """1/8 text and 7/8 image cross-entropy, in nats a token; some captions are left out."""
        return self.parts(batch, generator).loss

    def validation_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        """The same loss, with no caption dropped."""
        return self.parts(batch).loss

    def parts(self, batch: ImageTextBatch, generator: torch.Generator | None = None) -> TokenTerms:
        """Both cross-entropies; with a generator, captions are left out at the rate `drop_text`."""
        text, image = embeddings_of(batch).tokens, self.tokens_of(batch.images)
        if generator is not None and self.drop_text:
            keep = torch.rand(len(text), generator=generator) >= self.drop_text
            text = text * keep.to(text.device)[:, None]
        logits = self.network(text, image)
        return TokenTerms(mean_text_nll(logits["text"], text), F.cross_entropy(logits["image"].mT, image))

    @torch.no_grad()
    def sample(self, tokens: Tensor, generators: Sequence[torch.Generator], given: Tensor | None = None) -> Tensor:
        """(B, N) image tokens for (B, L) caption tokens, one generator each.

        A picture's generator is asked once, for one number a token; a token is where the number falls among the
        cumulated probabilities.

        Args:
            given: (B, k) the first k tokens of each picture; the rest is drawn.
        """
        count = self.network.num_tokens
        uniform = torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generators])
        guidance = None if self.guidance_scale == 1 else self.guided

        def draw(logits: Tensor, place: int) -> Tensor:
            return drawn(logits, uniform[:, place], self.temperature)

        return self.network.sample(tokens, draw, guidance=guidance, given=given)

    def guided(self, logits: Tensor) -> Tensor:
        """(2B, V) logits, [conditional, unconditional] -> (B, V)."""
        return guide_logits(logits, self.guidance_scale)

    @property
    def copies(self) -> int:
        """How often the network is evaluated for one token: 2 with classifier-free guidance."""
        return 1 if self.guidance_scale == 1 else 2

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for one picture."""
        return self.network.num_tokens * self.copies

    def example_batch(self, count: int) -> ImageTextBatch:
        index = torch.zeros(count, dtype=torch.int64)
        tokens = torch.zeros(count, self.network.text.context_length, dtype=torch.int64)
        side = self.network.grid if self.dvae is None else self.dvae.image_size
        z = torch.zeros(count, 1)
        return ImageTextBatch(
            torch.zeros(count, 3, side, side), [""] * count, index, None, EmbeddingBatch(z, z, tokens, index)
        )

    def output(self, batch: ImageTextBatch) -> Tensor:
        text = embeddings_of(batch).tokens
        found: Tensor = self.network(text, text.new_zeros(len(text), self.network.num_tokens))["image"]
        return found

    def sampling_parts(self) -> Iterator[Evaluations]:
        """The text once, then the image tokens through the cache: first and last, between which cost grows evenly."""
        text, network = embeddings_of(self.example_batch(1)).tokens, self.network
        yield self.copies, lambda: network.begin(text)
        cache, _ = network.begin(text)
        start, x = cache.length, torch.zeros(1, 1, network.transformer.width)
        step = network.transformer.stepping(cache)

        def one() -> Tensor:
            return network.image_out(step(x))

        for place in (0, network.num_tokens - 2):
            cache.length = start + place
            yield (self.evaluations - self.copies) / 2, one


def check_tokens(network: TokenTransformerNetwork, dvae: DVAEModel) -> None:
    """Refuse a Transformer whose image tokens are not a dVAE's.

    Raises:
        InputError: names the sizes that differ.
    """
    for name, ours, theirs in (
        ("num_codes", network.num_codes, dvae.network.num_codes),
        ("grid", network.grid, dvae.grid),
    ):
        if ours != theirs:
            raise InputError(f"{NETWORK}.{name} is {ours}, the dVAE's is {theirs}: set it to {theirs}")


def mean_text_nll(logits: Tensor, text: Tensor) -> Tensor:
    """Mean cross-entropy over the captions' tokens; padding (0) is no token. 0 where there is no text at all."""
    total = F.cross_entropy(logits.mT, text, ignore_index=0, reduction="sum")
    return total / (text != 0).sum().clamp(min=1)


def drawn(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """(B, V) logits and (B,) numbers in [0, 1) -> (B,) tokens, drawn by inverting the cumulated probabilities."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulated = F.softmax(exact(logits) / temperature, dim=-1).cumsum(dim=-1)
    wanted = uniform.to(cumulated.device)[:, None] * cumulated[:, -1:]
    places = torch.searchsorted(cumulated, wanted, right=True)[:, 0]
    return places.clamp(max=logits.shape[-1] - 1).to(logits.device)
