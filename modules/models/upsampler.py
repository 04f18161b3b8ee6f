"""The upsamplers: p(x high | x low), trained on quarter crops, run at full size (unCLIP, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.diffusion.denoiser import Denoiser, Threshold
from modules.diffusion.denoiser import Model as Predictor
from modules.diffusion.noise import Generators, randn_per_image
from modules.diffusion.samplers import OnStep
from modules.images.degradations import bsr_degrade, gaussian_blur, random_crop
from modules.models.diffusion_model import Evaluation, ImageModel
from modules.networks.upsampler import UpsamplerNetwork


@dataclass(frozen=True, eq=False)
class UpsamplerModel(ImageModel):
    """Draws an image of `factor` times the side of the low-resolution image that it is given.

    Attributes:
        network: what is trained.
        crop: side of the training window as a share of the target's; the paper's 0.25.
        corruption: of the low-resolution condition in training: "gaussian_blur" (64 -> 256) or "bsr" (256 -> 1024).
        corruption_share: how often it is applied.
    """

    network: UpsamplerNetwork
    crop: float = 0.25
    corruption: Literal["none", "gaussian_blur", "bsr"] = "gaussian_blur"
    corruption_share: float = 1.0

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

    def evaluate(self, batch: ImageTextBatch, generator: torch.Generator) -> Evaluation:
        """The draw and the network's output on a random crop."""
        side = round(batch.images.shape[-1] * self.crop)
        x0 = self.in_layout(random_crop(batch.images, side, self.network.factor, generator))
        enlarged = self.enlarged(self._corrupted(x0, generator))
        t, noise, x_t = self.drawn(x0, generator)
        return Evaluation(x0, noise, t, self.network(x_t, t, enlarged))

    def conditioned(self, batch: ImageTextBatch) -> tuple[Predictor, Tensor]:
        # At full size and without corruption, as in sampling.
        return self.predictor(self.shrunk(batch.images)), batch.images

    def example_batch(self, count: int) -> ImageTextBatch:
        """Of the crop's size, which is what the network sees in training."""
        side = round(self.image_size * self.crop)
        images = torch.zeros(count, self.network.channels, side, side)
        return ImageTextBatch(images, [""] * count, torch.zeros(count, dtype=torch.int64))

    def output(self, batch: ImageTextBatch) -> Tensor:
        found: Tensor = self.network(batch.images, torch.zeros_like(batch.index), batch.images)
        return found

    def predictor(self, low: Tensor) -> Predictor:
        """The network given low-resolution images (B, C, H, W) in [-1, 1]."""
        enlarged = self.enlarged(low)
        return lambda x_t, t: self.network(x_t, t, enlarged)

    def denoiser_for(self, low: Tensor, threshold: Threshold | None = None) -> Denoiser:
        """`predictor` as a denoiser."""
        return self.as_denoiser(self.predictor(low), threshold)

    @torch.no_grad()
    def sample(self, low: Tensor, generators: Generators, *, on_step: OnStep | None = None) -> Tensor:
        """(B, C, H, W) images in [-1, 1] -> (B, C, factor H, factor W), run convolutionally at full size (unCLIP 2.1).

        Args:
            generators: one an image.
            on_step: called after every step.
        """
        shape = (len(low), low.shape[1], *(side * self.network.factor for side in low.shape[2:]))
        x_T = randn_per_image(generators, shape, low.device)
        return self.draw(self.predictor(low), x_T, generators, on_step=on_step).clamp(-1, 1)
