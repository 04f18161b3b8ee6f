"""The upsamplers: p(x high | x low), trained on quarter crops, run at full size (unCLIP, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import EmbeddingBatch, ImageTextBatch, embeddings_of
from modules.clip.caption_tokens import MERGES, Reads, own_tokens
from modules.diffusion.denoiser import Denoiser, Threshold
from modules.diffusion.denoiser import Model as Predictor
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.samplers import OnStep
from modules.errors import InputError
from modules.images.degradations import bsr_degrade, gaussian_blur, random_crop
from modules.models.base import Evaluations
from modules.models.configs import UPSAMPLER_ONLY, check_value, whole
from modules.models.data_sizes import MODEL, NETWORK, CaptionReader, DataSizes, check_share
from modules.models.diffusion_model import Evaluation
from modules.models.image_model import SIDE, ImageModel, nearest
from modules.networks.lean_unet import LeanUNet
from modules.networks.unet import UNet
from modules.networks.upsampler import Caption, UpsamplerNetwork

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class WithLastStep:
    """An upsampler with a second U-Net for t = 0, given enlarged images; see `denoiser.at_timestep`."""

    network: UpsamplerNetwork
    enlarged: Tensor
    caption: Caption | None = None

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        found: Tensor = self.network(x_t, t, self.enlarged, None, self.caption)
        return found

    def at_timestep(self, timestep: int) -> Predictor:
        """The same for batches at one timestep, which need not be read from the device."""
        return lambda x_t, t: self.network(x_t, t, self.enlarged, timestep == 0, self.caption)


def eight_bit(images: Tensor) -> Tensor:
    """Images in [-1, 1] at the nearest of 256 values, as a file of pictures has them."""
    return ((images + 1) * 127.5).round() / 127.5 - 1


FACTOR = whole(16)
"""How much larger the side of an upsampler's picture may be; the paper's is 4."""


@dataclass(frozen=True, eq=False)
class UpsamplerModel(ImageModel):
    """Draws an image of `factor` times the side of a given low-resolution image.

    Attributes:
        network: the trained network.
        crop: side of the training window as a share of the target's; the paper's 0.25.
        corruption: how the low-resolution condition is corrupted in training: "gaussian_blur" (64 -> 256) or "bsr"
            (256 -> 1024).
        corruption_share: how often it is applied.
        reads: for a network with text: which tokens of the caption it reads, see `modules.clip.caption_tokens`.
        merges: of the byte pairs, for `reads` "gpt2"; they come with the weights.
    """

    network: UpsamplerNetwork
    crop: float = 0.25
    corruption: Literal["none", "gaussian_blur", "bsr"] = "gaussian_blur"
    corruption_share: float = 1.0
    reads: Reads = "clip"
    merges: Tensor | None = None

    STATE: ClassVar[tuple[str, ...]] = (*ImageModel.STATE, "merges")

    def check(self) -> None:
        super().check()
        check_value(f"{NETWORK}.factor", self.network.factor, FACTOR)

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("corruption_share", self.corruption_share)
        if self.sampler.guidance_scale != 1:
            raise InputError(
                f"{MODEL}.sampler.guidance_scale is {self.sampler.guidance_scale:g}: an upsampler has no condition "
                "that could be dropped, so it has no guidance; leave it out"
            )
        super().check_settings(sizes)

    def check_data(self, sizes: DataSizes) -> None:
        super().check_data(sizes)
        side, factor = sizes.image_size, self.network.factor
        if side is None:
            return
        if side % factor:
            raise InputError(
                f"{NETWORK}.factor is {factor}, which does not divide data.init_args.image_size, {side}: make the "
                f"latter {nearest(side, factor, self.unet.multiple)}, or take another factor"
            )
        self._check_crop(side)

    def _check_crop(self, side: int) -> None:
        """The training window of pictures of `side` pixels: a share of them that network and factor can take."""
        crop, factor = self.crop, self.network.factor
        if not 0 < crop <= 1:
            raise InputError(
                f"{MODEL}.crop is {crop:g}: it is the training window's share of the image's side, above 0 and at most "
                "1; the paper's is 0.25"
            )
        window, multiple = round(side * crop), math.lcm(factor, self.unet.multiple)
        if window == 0 or window % multiple:
            raise InputError(
                f"{MODEL}.crop is {crop:g}, a window of {window} of the images' {side} pixels; it must be a multiple "
                f"of {multiple} (factor {factor}, the U-Net's {self.unet.multiple}): take "
                f"{nearest(window, multiple) / side:g}"
            )

    @property
    def unet(self) -> UNet | LeanUNet:
        return self.network.unet

    @classmethod
    def overridable(cls) -> tuple[str, ...]:
        """Without those of guidance: there is no condition to drop (unCLIP, section 2.1)."""
        return (*(name for name in super().overridable() if not name.startswith("guidance")), *UPSAMPLER_ONLY)

    @property
    def evaluations(self) -> int:
        return self.sampler.steps

    def shrunk(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / factor, W / factor), antialiased."""
        size = [side // self.network.factor for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)

    def enlarged(self, low: Tensor) -> Tensor:
        """The low-resolution image as the network is given it: interpolated to the size of the output."""
        found: Tensor = self.network.enlarge(low)
        return found

    def _corrupted(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The low-resolution image as training sees it: corrupted, as often as the config says."""
        low = self.shrunk(images)
        if self.corruption == "none":
            return low
        chosen = torch.rand(len(low), 1, 1, 1, generator=generator) < self.corruption_share
        blur = self.corruption == "gaussian_blur"
        corrupted = gaussian_blur(low) if blur else bsr_degrade(images, self.network.factor, generator)
        return torch.where(chosen.to(low.device), corrupted, low)

    def window(self, batch: ImageTextBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) a random crop of each image, and its enlarged condition, as training sees them."""
        side = round(batch.images.shape[-1] * self.crop)
        x0 = self.in_layout(random_crop(batch.images, side, self.network.factor, generator))
        return x0, self.enlarged(self._corrupted(x0, generator))

    def evaluate(self, batch: ImageTextBatch, generator: torch.Generator) -> Evaluation:
        """The draw and the network's output on a random crop."""
        x0, enlarged = self.window(batch, generator)
        t, noise, x_t = self.drawn(x0, generator)
        return Evaluation(x0, noise, t, self.network(x_t, t, enlarged, None, self.caption(batch)))

    def conditioned(self, batch: ImageTextBatch) -> tuple[Predictor, Tensor]:
        # At full size and without corruption, as in sampling.
        return self.predictor(self.shrunk(batch.images), self.batch_tokens(batch)), batch.images

    def example_batch(self, count: int) -> ImageTextBatch:
        """A batch of the crop's size, which the network sees in training."""
        side = round(self.image_size * self.crop)
        images, index = torch.zeros(count, self.network.channels, side, side), torch.zeros(count, dtype=torch.int64)
        embeddings = None
        if self.network.text is not None:
            tokens = torch.zeros(count, self.network.text.context_length, dtype=torch.int64)
            embeddings = EmbeddingBatch(torch.zeros(count, 1), torch.zeros(count, 1), tokens, index)
        return ImageTextBatch(images, [""] * count, index, None, embeddings)

    def output(self, batch: ImageTextBatch) -> Tensor:
        t = torch.zeros_like(batch.index)
        found: Tensor = self.network(batch.images, t, batch.images, False, self.caption(batch))
        return found

    def sampling_parts(self) -> Iterator[Evaluations]:
        """The U-Net at every step, convolutionally at full size."""
        x, t = torch.zeros(1, self.network.channels, self.image_size, self.image_size), torch.zeros(1).long()
        caption = self.caption(self.example_batch(1))
        yield self.sampler.steps, lambda: self.network(x, t, x, False, caption)

    @property
    def reader(self) -> CaptionReader | None:
        return self.network.text if self.reads == "clip" else None

    def tokens_of(self, captions: Sequence[str], tokens: Tensor) -> Tensor | None:
        """(B, L) tokens that the network reads; None for one without text.

        Args:
            captions: B of them.
            tokens: (B, L') the CLIP's tokens; where all are 0 there is no caption.
        """
        if self.network.text is None:
            return None
        return own_tokens(self.reads, self.network.text.context_length, self.merges, captions, tokens)

    def batch_tokens(self, batch: ImageTextBatch) -> Tensor | None:
        """(B, L) tokens of a batch's captions that the network reads; None for one without text."""
        return None if self.network.text is None else self.tokens_of(batch.captions, embeddings_of(batch).tokens)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), **({} if self.merges is None else {MERGES: self.merges})}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        merges = tensors.get(MERGES, self.merges)
        return replace(super().with_tensors({k: v for k, v in tensors.items() if k != MERGES}), merges=merges)

    def caption(self, batch: ImageTextBatch) -> Caption | None:
        """What the network reads of a batch's captions; None for one without text."""
        tokens = self.batch_tokens(batch)
        return None if tokens is None else self.network.read(tokens)

    def predictor(self, low: Tensor, tokens: Tensor | None = None) -> Predictor:
        """The network given low-resolution images (B, C, H, W) in [-1, 1].

        Args:
            low: the images.
            tokens: (B, L) of their captions, for a network with text; None for no captions.
        """
        enlarged, caption = self.enlarged(low), None
        if self.network.text is not None:
            none = torch.zeros(len(low), self.network.text.context_length, dtype=torch.int64, device=low.device)
            caption = self.network.read(none if tokens is None else tokens)
        return self.given(enlarged, caption)

    def given(self, enlarged: Tensor, caption: Caption | None) -> Predictor:
        """The network given enlarged images (B, C, H, W) and what it reads of their captions."""
        if self.network.last_unet is not None:
            return WithLastStep(self.network, enlarged, caption)
        return lambda x_t, t: self.network(x_t, t, enlarged, None, caption)

    def denoiser_for(self, low: Tensor, threshold: Threshold | None = None) -> Denoiser:
        """`predictor` as a denoiser."""
        return self.as_denoiser(self.predictor(low), threshold)

    @torch.no_grad()
    def sample(
        self, low: Tensor, generators: Generators, *, on_step: OnStep | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W) images in [-1, 1] -> (B, C, factor H, factor W), run convolutionally at full size (unCLIP 2.1).

        Args:
            generators: one an image.
            on_step: called after every step.
            tokens: see `predictor`.
        """
        shape = (len(low), low.shape[1], *(side * self.network.factor for side in low.shape[2:]))
        for side in shape[2:]:
            check_value("the side of the enlarged picture", side, SIDE)
        x_T = randn_per_image(generators, shape, low.device) * self.sampler.init_noise_sigma
        given = eight_bit(low) if self.sampler.eight_bit_input else low
        return self.draw(self.predictor(given, tokens), x_T, generators, on_step=on_step).clamp(-1, 1)
