"""Trains the dVAE (`modules.models.dalle1.dvae`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.dalle1.schedules import DVAESchedules
from modules.images.tensors import to_uint8
from modules.models.dalle1.dvae import DVAEModel, code_use
from modules.networks.dalle1.dvae import DVAENetwork
from modules.training.model_stage import ModelStage
from modules.training.stage import TrainingConfig, adamw


class DVAE(ModelStage[DVAEModel, ImageTextBatch]):
    """Trains a DVAENetwork with the Gumbel-softmax relaxation and the logit-Laplace loss.

    Args:
        network: what is trained.
        schedules: of beta, tau and step size.
        smallest_scale: see DVAEModel.
        optimizer, training: see Stage. The iterate average is training.ema_decay; the paper's is 0.999.
    """

    def __init__(
        self,
        network: DVAENetwork,
        schedules: DVAESchedules = DVAESchedules(),
        smallest_scale: float = 0.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        ends = schedules.beta.end, schedules.temperature.end
        super().__init__(DVAEModel(network, *ends, smallest_scale), optimizer, training)
        self.schedules = schedules

    @property
    def model(self) -> DVAEModel:
        """The trained network, with beta and tau of this step."""
        step = self.global_step
        now = {"beta": self.schedules.beta.at(step), "temperature": self.schedules.temperature.at(step)}
        return replace(super().model, **now)

    @property
    def averaged_model(self) -> DVAEModel:
        """The averaged network, with tau of this step and the last beta, so that validation losses compare."""
        return replace(super().averaged_model, temperature=self.schedules.temperature.at(self.global_step))

    def training_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        model = self.model
        found = model.parts(batch, generator)
        self.log_dict(
            {
                "train/reconstruction": found.reconstruction.detach(),
                "train/kl": found.kl.detach(),
                "train/beta": model.beta,
                "train/temperature": model.temperature,
            }
        )
        return found.reconstruction + model.beta / model.values_per_token * found.kl

    def _learning_rate_factor(self, step: int) -> float:
        factor = super()._learning_rate_factor(step)
        return factor if self.schedules.step_size is None else factor * self.schedules.step_size.at(step)

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Both terms, the gap between relaxed and true bound, the codebook's use, and PSNR of the reconstructions."""
        model, tokens = self.averaged_model, self.averaged_model.encode(batch.images)
        relaxed, true = (parts(batch, self.generator(1, 0)) for parts in (model.parts, model.true_parts))
        use = code_use(tokens, model.network.num_codes)
        error = ((model.decode(tokens) - batch.images) / 2).square().flatten(1).mean(dim=1)
        return {
            "reconstruction": relaxed.reconstruction,
            "kl": relaxed.kl,
            "bound_gap": true.reconstruction - relaxed.reconstruction,  # The KL is the same in both.
            "code_perplexity": use.perplexity,
            "codes_used": use.used,
            "psnr": (-10 * error.log10()).mean(),
        }

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(2 x N, 3, H, W), N `samples_shown` or 16: reconstructions from the tokens, then the pictures."""
        images = batch.images[: self.shown_count]
        return torch.cat([self.averaged_model.decode(self.averaged_model.encode(images)), images])

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """tokens (B, h, w) int64, and the images (B, C, H, W) uint8 that they decode to; nothing is drawn."""
        tokens = self.averaged_model.encode(batch.images)
        return {"tokens": tokens, "images": to_uint8(self.averaged_model.decode(tokens))}
