"""The decoder: p(x | z_i, y) at low resolution; with embedding_dim null in its network, GLIDE (unCLIP, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch, embeddings_of
from modules.diffusion.denoiser import Denoiser, Threshold
from modules.diffusion.denoiser import Model as Predictor
from modules.diffusion.guidance import guide_two
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.samplers import OnStep
from modules.errors import InputError
from modules.models.base import Evaluations
from modules.models.configs import DECODER_ONLY
from modules.models.data_sizes import NETWORK, CaptionReader, DataSizes, check_share
from modules.models.diffusion_model import Evaluation
from modules.models.image_model import ImageModel
from modules.networks.decoder import Condition, DecoderNetwork
from modules.networks.lean_unet import LeanUNet
from modules.networks.unet import UNet


class Negative(NamedTuple):
    """What B pictures are guided away from, in the place of no caption and no embedding.

    Attributes:
        tokens: (B, L) tokens of the negative captions.
        z_i: (B, D) their embeddings of unit norm; None for the zero embedding.
    """

    tokens: Tensor
    z_i: Tensor | None


@dataclass(frozen=True, eq=False)
class DecoderModel(ImageModel):
    """Draws images for a caption's tokens and a CLIP embedding, either of which may be left out.

    Attributes:
        network: what is trained.
        drop_text, drop_embedding: how often caption and z_i are dropped in training, independently of each other.
        embedding: which CLIP embedding conditions it: "z_i", or "z_t" for the text-embedding decoder of section 5.1.
    """

    network: DecoderNetwork
    drop_text: float = 0.5
    drop_embedding: float = 0.1
    embedding: Literal["z_i", "z_t"] = "z_i"

    def check(self) -> None:
        super().check()
        if self.network.embedding_dim is None and self.sampler.text_guidance_scale is not None:
            raise InputError("text_guidance_scale needs a decoder with two conditions; this one has the caption alone")

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)
        check_share("drop_embedding", self.drop_embedding)
        super().check_settings(sizes)
        if sizes.image_size not in (None, self.image_size):
            raise InputError(
                f"{NETWORK}.unet.image_size is {self.image_size}, data.init_args.image_size is {sizes.image_size}: "
                "make them equal, for the first is what is drawn and the second what is trained on"
            )

    @property
    def unet(self) -> UNet | LeanUNet:
        return self.network.unet

    @property
    def embedding_dim(self) -> int | None:
        return self.network.embedding_dim

    @property
    def reader(self) -> CaptionReader:
        return self.network.text

    def conditions(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor | None]:
        """A batch's caption tokens (B, L) and CLIP embeddings (B, D); None for GLIDE, which has none."""
        rows = embeddings_of(batch)
        return rows.tokens, None if self.network.embedding_dim is None else getattr(rows, self.embedding)

    def evaluate(self, batch: ImageTextBatch, generator: torch.Generator) -> Evaluation:
        """The draw and the network's output; caption and embedding are dropped for some."""
        x0 = self.in_layout(batch.images)
        tokens, z_i = self.conditions(batch)
        t, noise, x_t = self.drawn(x0, generator)
        keep_text, keep_embedding = (
            (torch.rand(len(x0), generator=generator) >= share).to(x0.device)
            for share in (self.drop_text, self.drop_embedding)
        )
        condition = self.network.condition(tokens, z_i, keep_text=keep_text, keep_embedding=keep_embedding)
        return Evaluation(x0, noise, t, self.network(x_t, t, condition))

    def conditioned(self, batch: ImageTextBatch) -> tuple[Predictor, Tensor]:
        condition = self.network.condition(*self.conditions(batch))
        return lambda x_t, t: self.network(x_t, t, condition), batch.images

    def example_batch(self, count: int) -> ImageTextBatch:
        index = torch.zeros(count, dtype=torch.int64)
        z = torch.zeros(count, self.network.embedding_dim or 1)
        tokens = torch.zeros(count, self.network.text.context_length, dtype=torch.int64)
        images = torch.zeros(count, self.network.channels, self.image_size, self.image_size)
        return ImageTextBatch(images, [""] * count, index, None, EmbeddingBatch(z, z, tokens, index))

    def output(self, batch: ImageTextBatch) -> Tensor:
        tokens, z_i = self.conditions(batch)
        t, keep = torch.zeros_like(batch.index), torch.ones_like(batch.index, dtype=torch.bool)
        kept = {"keep_text": keep, "keep_embedding": None if z_i is None else keep}
        found: Tensor = self.network(batch.images, t, self.network.condition(tokens, z_i, **kept))
        return found

    def sampling_parts(self) -> Iterator[Evaluations]:
        """Caption and embedding once, then the U-Net at every step."""
        batch = self.example_batch(1)
        tokens, z_i = self.conditions(batch)
        yield self.copies, lambda: self.network.condition(tokens, z_i)
        condition, t = self.network.condition(tokens, z_i), torch.zeros_like(batch.index)
        yield self.evaluations, lambda: self.network(batch.images, t, condition)

    def predictor(self, tokens: Tensor, z_i: Tensor | None, negative: Negative | None = None) -> Predictor:
        """The network given (caption, z_i), guided as the sampler says.

        By default the paper's joint guidance: the unconditional half has neither caption nor z_i. With
        text_guidance_scale there are three parts: both, z_i alone, neither.

        Args:
            tokens: (B, L) caption tokens; all 0 for no caption.
            z_i: (B, D) of unit norm; None is the zero embedding, that is the caption alone.
            negative: what the unconditional half is given, and z_i's own third its caption; None for nothing.
        """
        sampler, both = self.sampler, self.network.condition(tokens, z_i)
        if sampler.guidance_scale == 1 and sampler.text_guidance_scale in (None, 1):
            return self._given(both)
        away = Negative(torch.zeros_like(tokens), None) if negative is None else negative
        neither = self.network.condition(*away)
        conditional = None if sampler.guidance_interval is None else self._given(both)
        if sampler.text_guidance_scale is None:
            return self.guided(self._given(Condition.stack([both, neither])), conditional)
        z_i_alone = self.network.condition(away.tokens, z_i)
        return guide_two(
            self._given(Condition.stack([both, z_i_alone, neither])),
            sampler.text_guidance_scale,
            sampler.guidance_scale,
            interval=self.guidance_timesteps,
            rescale=sampler.guidance_rescale,
            conditional=conditional,
        )

    def _given(self, condition: Condition) -> Predictor:
        return lambda x_t, t: self.network(x_t, t, condition)

    @property
    def copies(self) -> int:
        sampler = self.sampler
        if sampler.text_guidance_scale is None or sampler.text_guidance_scale == sampler.guidance_scale == 1:
            return super().copies
        return 3  # both conditions, z_i alone, neither

    @classmethod
    def overridable(cls) -> tuple[str, ...]:
        return (*super().overridable(), *DECODER_ONLY)

    def denoiser_for(self, tokens: Tensor, z_i: Tensor | None, threshold: Threshold | None = None) -> Denoiser:
        """`predictor` as a denoiser; without threshold, since clipping has no inverse."""
        return self.as_denoiser(self.predictor(tokens, z_i), threshold)

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        z_i: Tensor | None,
        generators: Generators,
        *,
        size: int | None = None,
        on_step: OnStep | None = None,
        similarity: Callable[[Tensor], Tensor] | None = None,
        negative: Negative | None = None,
    ) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] for (caption, z_i).

        Args:
            tokens, z_i: see `predictor`.
            generators: one an image.
            size: their side S, by default the network's own.
            on_step: called after every step.
            similarity: images (B, C, S, S) -> (B,), for a sampler with clip_guidance_scale.
            negative: what to be guided away from; no effect at a guidance scale of 1.
        """
        side = self.image_size if size is None else size
        x_T = randn_per_image(generators, (len(tokens), self.network.channels, side, side), tokens.device)
        predict, x_T = self.predictor(tokens, z_i, negative), self.in_layout(x_T)
        drawn = self.draw(predict, x_T, generators, on_step=on_step, similarity=similarity)
        return drawn.clamp(-1, 1)
