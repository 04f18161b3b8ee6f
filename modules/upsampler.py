"""The upsamplers: p(x high | x low), trained on quarter crops, run at full size (unCLIP, section 2.1)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.diffusion.denoiser import Model
from modules.images.degradations import bsr_degrade, gaussian_blur, random_crop
from modules.images.tensors import to_uint8
from modules.models.configs import Objective, SamplerConfig
from modules.networks.upsampler import UpsamplerNetwork
from modules.prior_batches import per_sample_generators
from modules.sampling import sample_upsampler
from modules.training.diffusion_stage import DiffusionStage
from modules.training.stage import TrainingConfig, adamw


class Upsampler(DiffusionStage):
    """Trains an UpsamplerNetwork on images of the target size.

    Args:
        network: what is trained.
        objective: the paper's: epsilon, cosine schedule (linear in the second upsampler), 1,000 steps.
        sampler: the paper's: DDIM, 27 steps (15).
        crop: side of the training window as a share of the target's; the paper's 0.25.
        corruption: of the low-resolution condition in training: "gaussian_blur" (64 -> 256) or "bsr" (256 -> 1024).
        corruption_share: how often it is applied.
        statistics_samples: see DiffusionStage.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: UpsamplerNetwork,
        objective: Objective = Objective(),
        sampler: SamplerConfig = SamplerConfig(name="ddim", steps=27, spacing="adm"),
        crop: float = 0.25,
        corruption: Literal["none", "gaussian_blur", "bsr"] = "gaussian_blur",
        corruption_share: float = 1.0,
        statistics_samples: int = 2048,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(network, objective, sampler, optimizer, training, statistics_samples)
        self.crop, self.corruption, self.corruption_share = crop, corruption, corruption_share

    def _shrink(self, images: Tensor) -> Tensor:
        """The low-resolution image, antialiased."""
        size = [side // self.network.factor for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)

    def _condition(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The low-resolution image as training sees it: corrupted, as often as the config says."""
        low = self._shrink(images)
        if self.corruption == "none":
            return low
        chosen = torch.rand(len(low), 1, 1, 1, generator=generator) < self.corruption_share
        blur = self.corruption == "gaussian_blur"
        corrupted = gaussian_blur(low) if blur else bsr_degrade(images, self.network.factor, generator)
        return torch.where(chosen.to(low.device), corrupted, low)

    def _loss(self, network: Any, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        side = round(batch.images.shape[-1] * self.crop)
        x0 = random_crop(batch.images, side, self.network.factor, generator)
        if self.training_config.channels_last:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        enlarged = network.enlarge(self._condition(x0, generator))
        t, noise, x_t = self.draw(network, x0, generator)
        return self.mean_loss(network, network(x_t, t, enlarged), x0, noise, t)

    def training_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.trained, batch, generator)

    def validation_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.averaged, batch, generator)

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        images = batch.images[:16]
        low = self._shrink(images)
        high = self._draw(low, per_sample_generators(len(low)))
        return {"psnr": psnr(high, images), "psnr_bicubic": psnr(self.network.enlarge(low), images)}

    def conditioned(self, batch: ImageTextBatch) -> tuple[Model, Tensor]:
        # At full size and without corruption, as in sampling.
        enlarged = self.network.enlarge(self._shrink(batch.images))
        return lambda x_t, t: self.averaged(x_t, t, enlarged), batch.images

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """images (B, C, H, W) uint8, drawn for the batch's own ones made small."""
        return {"images": to_uint8(self._draw(self._shrink(batch.images), generators))}

    def _draw(self, low: Tensor, generators: list[torch.Generator]) -> Tensor:
        return sample_upsampler(
            self.averaged, self.objective, self.sampler_now, low, generators, statistics=self.statistics
        )

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(3 x 4, 3, H, W): enlarged conditions, samples, and the true images."""
        images = batch.images[:4]
        low = self._shrink(images)
        return torch.cat([self.network.enlarge(low), self._draw(low, per_sample_generators(len(low))), images])


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Mean over images in [-1, 1] of the peak signal-to-noise ratio, in dB."""
    error = (images - truth).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * error.clamp(min=1e-10).log10()).mean()
