"""The decoder: p(x | z_i, y) at low resolution; with embedding_dim null in its network, GLIDE (unCLIP, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch, embeddings_of
from modules.clip.caption_tokens import MERGES, Reads, merges_of, own_tokens, tokenizer_of
from modules.diffusion.denoiser import Denoiser, Threshold
from modules.diffusion.denoiser import Model as Predictor
from modules.diffusion.guidance import guide_two, side_by_side
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.samplers import OnStep
from modules.errors import InputError
from modules.models.base import Evaluations, changed
from modules.models.configs import DECODER_ONLY, DECODER_RULES, Rule, check_value
from modules.models.data_sizes import NETWORK, CaptionReader, DataSizes, check_share
from modules.models.diffusion_model import Evaluation
from modules.models.image_model import ImageModel
from modules.networks.decoder import Condition, DecoderNetwork
from modules.networks.embedding_pathway import EmbeddingNoise
from modules.networks.frozen_text import CaptionFeatures, FrozenText, real_tokens
from modules.networks.lean_unet import LeanUNet
from modules.networks.transformer import unique_rows
from modules.networks.unet import UNet

if TYPE_CHECKING:
    from typing_extensions import Self

ALIKE = (
    "objective.schedule",
    "objective.num_steps",
    "objective.zero_terminal_snr",
    "objective.parameterization",
    "objective.learned_sigma",
    "image_size",
    "embedding_dim",
    "embedding",
    "embedding_noise",
    "reads",
)
"""What a decoder and its weak version must share, so that their outputs mean the same."""

CaptionInput = Tensor | CaptionFeatures
"""Captions as a decoder reads them: (B, L) tokens, or what a frozen CLIP gives of these."""


def no_captions(captions: CaptionInput) -> CaptionInput:
    """As many captions, all dropped."""
    if isinstance(captions, CaptionFeatures):
        return captions._replace(mask=torch.zeros_like(captions.mask))
    return torch.zeros_like(captions)


def first_captions(captions: CaptionInput, count: int) -> CaptionInput:
    """The first `count` captions."""
    if isinstance(captions, CaptionFeatures):
        return CaptionFeatures(*(part[:count] for part in captions))
    return captions[:count]


def level(highest: int) -> Callable[[object], bool]:
    """A test for whole numbers from 0 to `highest`."""
    return lambda value: type(value) is int and 0 <= value <= highest


class Negative(NamedTuple):
    """The negative condition of B pictures, in the place of the empty condition of guidance.

    Attributes:
        tokens: (B, L) tokens of the negative captions, or what a frozen CLIP gives of them.
        z_i: (B, D) their embeddings of unit norm; None for the zero embedding.
        texts: B captions in words, for a decoder that has tokens of its own.
    """

    tokens: CaptionInput
    z_i: Tensor | None
    texts: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class DecoderModel(ImageModel):
    """Draws images for a caption's tokens and a CLIP embedding; either of them may be left out.

    Attributes:
        network: the trained network.
        drop_text, drop_embedding: how often caption and z_i are dropped in training, independently of each other.
        embedding: which CLIP embedding conditions it: "z_i", or "z_t" for the text-embedding decoder of section 5.1.
        reads: which tokens of the caption its text encoder reads: the CLIP's, or its own byte pairs or characters.
        merges: of the byte pairs, for `reads` "gpt2": the bytes of their file. They come with the weights.
        embedding_noise: the highest level of noise that is added to z_i in training, 0 for none. Level k is timestep
            k - 1 of the objective's schedule. A level is drawn for each sample, and the network is told which one
            (Stable unCLIP's noise augmentation), so that it learns to forgive a prior's errors.
        noise_level: level of the noise that is added to z_i in sampling, up to embedding_noise.
        features: (B, L) tokens -> a frozen CLIP's features of them, for a network with `frozen_text`; the program that
            draws sets it. Training reads features from its batches.
        weak: a weak version of this decoder, which guidance leads away from; the program that draws with `guided_from`
            "weak" sets it.
    """

    network: DecoderNetwork
    drop_text: float = 0.5
    drop_embedding: float = 0.1
    embedding: Literal["z_i", "z_t"] = "z_i"
    reads: Reads = "clip"
    embedding_noise: int = 0
    noise_level: int = 0
    features: Callable[[Tensor], CaptionFeatures] | None = None
    weak: DecoderModel | None = None
    merges: Tensor | None = None

    STATE: ClassVar[tuple[str, ...]] = (*ImageModel.STATE, "features", "weak", "merges")
    RAW_SETTING: ClassVar[str] = "pathway.raw"

    def check(self) -> None:
        super().check()
        self._check_noise()
        text = self.network.text
        known = self.reads != "clip" and (self.reads != "gpt2" or self.merges is not None)
        own = (self.reads, text.context_length, merges_of(self.merges))
        if known and text.vocab_size != (size := tokenizer_of(*own)[1]):
            raise InputError(
                f"network.init_args.vocab_size is {text.vocab_size}, reads: {self.reads} has {size} tokens: set it to "
                f"{size}"
            )
        if self.network.embedding_dim is None and self.sampler.text_guidance_scale is not None:
            raise InputError("text_guidance_scale needs a decoder with two conditions; this one has the caption alone")
        if self.sampler.guided_from == "weak" and self.sampler.text_guidance_scale is not None:
            raise InputError("guided_from: weak has one scale, guidance_scale: set text_guidance_scale to null")

    def _check_noise(self) -> None:
        most = self.objective.num_steps
        check_value("embedding_noise", self.embedding_noise, (level(most), f"a whole number from 0 to {most}"))
        highest = self.embedding_noise
        check_value("noise_level", self.noise_level, (level(highest), f"a whole number from 0 to {highest}"))
        if (self.network.noise_level is not None) != (self.embedding_noise > 0):
            raise InputError(
                f"embedding_noise is {self.embedding_noise}, network.init_args.noise_levels is "
                f"{str(self.network.noise_level is not None).lower()}: noise on z_i in training needs a network that "
                "is told the noise level, and such a network needs the noise; set both or neither"
            )

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)
        check_share("drop_embedding", self.drop_embedding)
        super().check_settings(sizes)
        if sizes.image_size not in (None, self.image_size):
            raise InputError(
                f"{NETWORK}.unet.image_size is {self.image_size}, data.init_args.image_size is {sizes.image_size}: "
                "make them equal, because the decoder draws pictures of the size that it is trained on"
            )

    @property
    def unet(self) -> UNet | LeanUNet:
        return self.network.unet

    @property
    def embedding_dim(self) -> int | None:
        return self.network.embedding_dim

    @property
    def takes_raw(self) -> bool | None:
        if self.network.embedding_dim is None or self.network.clip_features.whitening is not None:
            return None  # What is whitened may have had any scale.
        return bool(self.network.clip_features.raw)

    @property
    def reader(self) -> CaptionReader | None:
        return self.network.text if self.reads == "clip" else None

    def tokens_of(self, captions: Sequence[str], tokens: Tensor) -> Tensor:
        """(B, L) tokens that the text encoder reads.

        Args:
            captions: B of them.
            tokens: (B, L') the CLIP's tokens; where all are 0 there is no caption.
        """
        if self.reads == "clip":
            return tokens
        return own_tokens(self.reads, self.network.text.context_length, self.merges, captions, tokens)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), **({} if self.merges is None else {MERGES: self.merges})}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        merges = tensors.get(MERGES, self.merges)
        return replace(super().with_tensors({k: v for k, v in tensors.items() if k != MERGES}), merges=merges)

    @property
    def reads_features(self) -> bool:
        """Whether the network reads a frozen CLIP's features of a caption instead of its tokens."""
        return isinstance(self.network.text, FrozenText)

    def conditions(self, batch: ImageTextBatch) -> tuple[CaptionInput, Tensor | None]:
        """A batch's captions as the network reads them, and CLIP embeddings (B, D); None for GLIDE, which has none.

        Raises:
            InputError: the network reads a CLIP's features of every token, and the batch has none.
        """
        rows = embeddings_of(batch)
        z_i = None if self.network.embedding_dim is None else getattr(rows, self.embedding)
        if not self.reads_features:
            return self.tokens_of(batch.captions, rows.tokens), z_i
        if rows.features is None:
            raise InputError(
                "model.network.frozen_text needs the CLIP's features of every token, and the batches hold none: make "
                "them with `unclip embed --token-features` and set data.init_args.token_features: true"
            )
        return CaptionFeatures(rows.features, rows.z_t, real_tokens(rows.tokens)), z_i

    def read(self, captions: CaptionInput) -> CaptionInput:
        """Captions as the network reads them: tokens (B, L), or what the CLIP gives of these."""
        if not self.reads_features or isinstance(captions, CaptionFeatures):
            return captions
        if self.features is None:
            raise ValueError("this decoder reads a CLIP's features of a caption: set `features`, or give them")
        rows, places = unique_rows(captions)
        return self.features(captions[rows]).rows(places)

    def evaluate(self, batch: ImageTextBatch, generator: torch.Generator) -> Evaluation:
        """The draw of timesteps and noise, and the network's output; some captions and embeddings are dropped."""
        x0 = self.in_layout(batch.images)
        tokens, z_i = self.conditions(batch)
        t, noise, x_t = self.drawn(x0, generator)
        keep_text, keep_embedding = (
            (torch.rand(len(x0), generator=generator) >= share).to(x0.device)
            for share in (self.drop_text, self.drop_embedding)
        )
        kept = {"keep_text": keep_text, "keep_embedding": keep_embedding}
        noised = self._noised_in_training(z_i, generator) if self.embedding_noise and z_i is not None else None
        condition = self.network.condition(tokens, z_i, **kept, noised=noised)
        return Evaluation(x0, noise, t, self.network(x_t, t, condition))

    def _noised_in_training(self, z_i: Tensor, generator: torch.Generator) -> EmbeddingNoise:
        """A level for each sample, from 0 to embedding_noise alike, and noise of it."""
        levels = torch.randint(self.embedding_noise + 1, (len(z_i),), generator=generator)
        return self._noised(levels.to(z_i.device), torch.randn(z_i.shape, generator=generator).to(z_i))

    def _noised(self, levels: Tensor, noise: Tensor) -> EmbeddingNoise:
        """Noise (B, D) of levels (B,): as q_sample at timestep level - 1, and none at level 0."""
        at = self.objective.noise_schedule.at((levels - 1).clamp(min=0), like=noise)
        none = (levels == 0)[:, None]
        signal, scale = torch.where(none, 1.0, at.signal), torch.where(none, 0.0, at.noise)
        return EmbeddingNoise(levels, signal[:, 0], scale * noise)

    def conditioned(self, batch: ImageTextBatch) -> tuple[Predictor, Tensor]:
        condition = self.network.condition(*self.conditions(batch))
        return lambda x_t, t: self.network(x_t, t, condition), batch.images

    def example_batch(self, count: int) -> ImageTextBatch:
        index = torch.zeros(count, dtype=torch.int64)
        z = torch.zeros(count, self.network.embedding_dim or 1)
        text = self.network.text
        tokens = torch.zeros(count, text.context_length, dtype=torch.int64)
        features, z_t = None, z
        if isinstance(text, FrozenText):
            features, z_t = torch.zeros(count, text.context_length, text.feature_dim), z.new_zeros(count, text.z_t_dim)
        images = torch.zeros(count, self.network.channels, self.image_size, self.image_size)
        return ImageTextBatch(images, [""] * count, index, None, EmbeddingBatch(z, z_t, tokens, index, features))

    def output(self, batch: ImageTextBatch) -> Tensor:
        tokens, z_i = self.conditions(batch)
        t, keep = torch.zeros_like(batch.index), torch.ones_like(batch.index, dtype=torch.bool)
        keep_embedding = None if z_i is None else keep
        condition = self.network.condition(tokens, z_i, keep_text=keep, keep_embedding=keep_embedding)
        found: Tensor = self.network(batch.images, t, condition)
        return found

    def sampling_parts(self) -> Iterator[Evaluations]:
        """Caption and embedding once, then the U-Net at every step."""
        batch = self.example_batch(1)
        tokens, z_i = self.conditions(batch)
        yield self.copies, lambda: self.network.condition(tokens, z_i)
        condition, t = self.network.condition(tokens, z_i), torch.zeros_like(batch.index)
        yield self.evaluations, lambda: self.network(batch.images, t, condition)

    def predictor(
        self,
        tokens: CaptionInput,
        z_i: Tensor | None,
        negative: Negative | None = None,
        noised: EmbeddingNoise | None = None,
    ) -> Predictor:
        """The network given (caption, z_i), guided as the sampler says.

        By default the paper's joint guidance: the unconditional half has neither caption nor z_i. With
        text_guidance_scale there are three parts: both, z_i alone, neither. With guided_from "weak" the other half is
        the weak decoder's, under the same conditions.

        Args:
            tokens: (B, L) caption tokens, all 0 for no caption; or what a frozen CLIP gives of them.
            z_i: (B, D) of unit norm; None is the zero (or learned) embedding, that is the caption alone.
            negative: what the unconditional half is given, and z_i's own third its caption; None for nothing.
            noised: noise on z_i.
        """
        captions = self.read(tokens)
        sampler, both = self.sampler, self.network.condition(captions, z_i, noised=noised)
        if sampler.guidance_scale == 1 and sampler.text_guidance_scale in (None, 1):
            return self._given(both)
        if sampler.guided_from == "weak":
            weak = self._weak_version()
            other = weak._given(weak.network.condition(weak.read(tokens), z_i, noised=noised))
            return self.guided(side_by_side(self._given(both), other), self._given(both))
        away = no_captions(captions) if negative is None else self.read(negative.tokens)
        neither = self.network.condition(away, None if negative is None else negative.z_i)
        conditional = None if sampler.guidance_interval is None else self._given(both)
        if sampler.text_guidance_scale is None:
            return self.guided(self._given(Condition.stack([both, neither])), conditional)
        z_i_alone = self.network.condition(away, z_i, noised=noised)
        return guide_two(
            self._given(Condition.stack([both, z_i_alone, neither])),
            sampler.text_guidance_scale,
            sampler.guidance_scale,
            interval=self.guidance_timesteps,
            rescale=sampler.guidance_rescale,
            conditional=conditional,
        )

    def _weak_version(self) -> DecoderModel:
        """The weak decoder.

        Raises:
            InputError: there is none, or its output means something else.
        """
        if self.weak is None:
            raise InputError("guided_from: weak needs a weak version of the decoder, and there is none")
        for name in ALIKE:
            ours, theirs = attrgetter(name)(self), attrgetter(name)(self.weak)
            if ours != theirs:
                raise InputError(f"guided_from: weak: the weak decoder's {name} is {theirs}, the decoder's is {ours}")
        return self.weak

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
        return (*super().overridable(), *DECODER_ONLY, *DECODER_RULES)

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        return {**super().rules(), **DECODER_RULES}

    def _with_settings(self, settings: dict[str, object]) -> Self:
        return changed(super()._with_settings(settings), settings)

    def denoiser_for(self, tokens: CaptionInput, z_i: Tensor | None, threshold: Threshold | None = None) -> Denoiser:
        """`predictor` as a denoiser; without threshold, since clipping has no inverse."""
        return self.as_denoiser(self.predictor(tokens, z_i), threshold)

    @torch.no_grad()
    def sample(
        self,
        tokens: CaptionInput,
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
            negative: what guidance leads away from; without effect at a guidance scale of 1.
        """
        side = self.image_size if size is None else size
        rows = tokens.z_t if isinstance(tokens, CaptionFeatures) else tokens
        x_T = randn_per_image(generators, (len(rows), self.network.channels, side, side), rows.device)
        noised = None
        if self.noise_level and z_i is not None:
            levels = torch.full((len(z_i),), self.noise_level, device=z_i.device)
            noised = self._noised(levels, randn_per_image(generators, z_i.shape, z_i.device, z_i.dtype))
        predict, x_T = self.predictor(tokens, z_i, negative, noised), self.in_layout(x_T)
        drawn = self.draw(predict, x_T, generators, on_step=on_step, similarity=similarity)
        return drawn.clamp(-1, 1)
