"""Trains the upsamplers (`modules.models.upsampler`)."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.images.tensors import to_uint8
from modules.models.configs import Objective, SamplerConfig
from modules.models.upsampler import UpsamplerModel
from modules.networks.upsampler import UpsamplerNetwork
from modules.training.diffusion_stage import DiffusionStage
from modules.training.model_stage import per_sample_generators
from modules.training.stage import TrainingConfig, adamw


class Upsampler(DiffusionStage[UpsamplerModel, ImageTextBatch]):
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
        model = UpsamplerModel(
            network,
            objective,
            sampler,
            crop=crop,
            corruption=corruption,
            corruption_share=corruption_share,
        )
        super().__init__(model, optimizer, training, statistics_samples)

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        images, model = batch.images[:16], self.averaged_model
        low = model.shrunk(images)
        high = model.sample(low, per_sample_generators(len(low)))
        return {"psnr": psnr(high, images), "psnr_bicubic": psnr(model.enlarged(low), images)}

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """images (B, C, H, W) uint8, drawn for the batch's own ones made small."""
        model = self.averaged_model
        return {"images": to_uint8(model.sample(model.shrunk(batch.images), generators))}

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(3 x 4, 3, H, W): enlarged conditions, samples, and the true images."""
        images, model = batch.images[:4], self.averaged_model
        low = model.shrunk(images)
        return torch.cat([model.enlarged(low), model.sample(low, per_sample_generators(len(low))), images])


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Mean over images in [-1, 1] of the peak signal-to-noise ratio, in dB."""
    error = (images - truth).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * error.clamp(min=1e-10).log10()).mean()
