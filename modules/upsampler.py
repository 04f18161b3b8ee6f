"""Trains the upsamplers (`modules.models.upsampler`)."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.clip.caption_tokens import Reads
from modules.images.tensors import to_uint8
from modules.models.configs import Objective, SamplerConfig
from modules.models.upsampler import UpsamplerModel
from modules.networks.upsampler import UpsamplerNetwork
from modules.training.diffusion_stage import DiffusionStage
from modules.training.measures import SSIM_SIDE, psnr, ssim
from modules.training.model_stage import per_sample_generators, picture_count, picture_parts
from modules.training.stage import TrainingConfig, adamw

JUDGED, SHOWN = 16, 4
"""How many pictures validation draws, of up to 512 px and of up to 1,024 px, to take their PSNR and to show them."""


class Upsampler(DiffusionStage[UpsamplerModel, ImageTextBatch]):
    """Trains an UpsamplerNetwork on images of the target size.

    Args:
        network: the trained network.
        objective: by default the paper's: epsilon, cosine schedule (linear in the second upsampler), 1,000 steps.
        sampler: by default the paper's: DDIM, 27 steps (15 in the second upsampler).
        crop: side of the training window as a share of the target's; the paper's 0.25.
        corruption: corruption of the condition in training: "gaussian_blur" (64 -> 256) or "bsr" (256 -> 1024).
        corruption_share: how often it is applied.
        statistics_samples: see DiffusionStage.
        optimizer, training: see Stage.
        reads: for a network with text: which tokens of the caption it reads.
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
        reads: Reads = "clip",
    ) -> None:
        model = UpsamplerModel(
            network,
            objective,
            sampler,
            crop=crop,
            corruption=corruption,
            corruption_share=corruption_share,
            reads=reads,
        )
        super().__init__(model, optimizer, training, statistics_samples)

    def _drawn(self, low: Tensor, batch: ImageTextBatch) -> Tensor:
        """(N, C, H, W) the first of a batch, made small, enlarged by sampling, as few at once as their size asks."""
        model, generators = self.averaged_model, per_sample_generators(len(low))
        parts, tokens = picture_parts(len(low), low.shape[-1] * model.network.factor), model.batch_tokens(batch)
        texts = [None if tokens is None else tokens[: len(low)][part] for part in parts]
        drawn = [model.sample(low[p], generators[p], tokens=text) for p, text in zip(parts, texts, strict=True)]
        return torch.cat(drawn)

    def _count(self, wanted: int | None, most: int, batch: ImageTextBatch) -> int:
        return picture_count(most, batch.images.shape[-1]) if wanted is None else wanted

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """PSNR (dB) and SSIM of enlarged pictures and of bicubic interpolation; by default of 16, of 1,024 px of 4."""
        images = batch.images[: self._count(self.training_config.samples_judged, JUDGED, batch)]
        model = self.averaged_model
        low = model.shrunk(images)
        high = self._drawn(low, batch)
        enlarged = model.enlarged(low)
        found = {"psnr": psnr(high, images), "psnr_bicubic": psnr(enlarged, images)}
        if min(images.shape[-2:]) >= SSIM_SIDE:
            found |= {"ssim": ssim(high, images), "ssim_bicubic": ssim(enlarged, images)}
        return found

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """images (B, C, H, W) uint8, drawn for the batch's own ones made small."""
        model = self.averaged_model
        return {
            "images": to_uint8(model.sample(model.shrunk(batch.images), generators, tokens=model.batch_tokens(batch)))
        }

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(3 x N, 3, H, W), N `samples_shown` or 4: enlarged conditions, samples, and the true images."""
        images = batch.images[: self._count(self.training_config.samples_shown, SHOWN, batch)]
        low = self.averaged_model.shrunk(images)
        return torch.cat([self.averaged_model.enlarged(low), self._drawn(low, batch), images])
