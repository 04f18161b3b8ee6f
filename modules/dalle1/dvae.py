"""Trains the dVAE (`modules.models.dalle1.dvae`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from modules.batches import ImageTextBatch
from modules.dalle1.code_counts import CodeCounts
from modules.dalle1.schedules import DVAESchedules
from modules.images.tensors import to_uint8
from modules.models.dalle1.dvae import DVAEModel, spread_logits
from modules.models.dalle1.logit_laplace import to_unit
from modules.networks.dalle1.dvae import DVAENetwork
from modules.training.measures import psnr
from modules.training.model_stage import ModelStage
from modules.training.stage import TrainingConfig, adamw

PICTURES = 256
"""Training pictures from which a fresh encoder is spread."""


class DVAE(ModelStage[DVAEModel, ImageTextBatch]):
    """Trains a DVAENetwork with the Gumbel-softmax relaxation and the logit-Laplace loss.

    Args:
        network: what is trained.
        schedules: of beta, tau and step size.
        smallest_scale: see DVAEModel.
        spread: standard deviation of the fresh encoder's logits over training pictures, each code's mean being 0; null
            leaves the weights as they were drawn. With it the codebook is in use from the first step.
        encoder_rate: the encoder's learning rate as a share of the optimiser's. A slower encoder lets the decoder learn
            what the codes mean before they change; in few steps most codes are lost otherwise (docs/dalle1.md).
        optimizer, training: see Stage. The iterate average is training.ema_decay; the paper's is 0.999.
    """

    def __init__(
        self,
        network: DVAENetwork,
        schedules: DVAESchedules = DVAESchedules(),
        smallest_scale: float = 0.0,
        spread: float | None = None,
        encoder_rate: float = 1.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        ends = schedules.beta.end, schedules.temperature.end
        super().__init__(DVAEModel(network, *ends, smallest_scale), optimizer, training)
        self.schedules, self.spread, self.encoder_rate = schedules, spread, encoder_rate

    def on_fit_start(self) -> None:
        """Give the fresh encoder's logits their spread; a resumed run has its weights, and `init_from` gives others."""
        if self.spread is None or not self.begins or self.initial:
            return
        data = self.trainer.datamodule.dataset("train")  # type: ignore[attr-defined]
        count = min(PICTURES, len(data))
        images = data.__getitems__([k * len(data) // count for k in range(count)]).images.to(self.device)
        for network in (self.network, self.averaged):  # The same weights, and so the same numbers.
            assert isinstance(network, DVAENetwork)
            spread_logits(network.encoder, to_unit(images), self.spread)

    def prepare_optimizer(self, optimizer: Optimizer) -> None:
        """Give the encoder's weights groups with their own learning rate."""
        if self.encoder_rate == 1:
            return
        own = {id(parameter) for parameter in self.network.get_submodule("encoder").parameters()}
        for group in list(optimizer.param_groups):
            slow = [parameter for parameter in group["params"] if id(parameter) in own]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
            optimizer.param_groups.append({**group, "params": slow, "lr": group["lr"] * self.encoder_rate})

    @property
    def model(self) -> DVAEModel:
        """The trained network, with beta and tau of this step."""
        step = self.global_step
        beta, temperature = self.schedules.beta.at(step), self.schedules.temperature.at(step)
        return replace(super().model, beta=beta, temperature=temperature)

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
        return model.weighted(found)

    def _learning_rate_factor(self, step: int) -> float:
        factor = super()._learning_rate_factor(step)
        return factor if self.schedules.step_size is None else factor * self.schedules.step_size.at(step)

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor | Metric]:
        """Both terms, the gap between relaxed and true bound, the codebook's use, and PSNR of the reconstructions."""
        model, tokens = self.averaged_model, self.averaged_model.encode(batch.images)
        relaxed, true = (parts(batch, self.generator(1, 0)) for parts in (model.parts, model.true_parts))
        return {
            "reconstruction": relaxed.reconstruction,
            "kl": relaxed.kl,
            "bound_gap": true.reconstruction - relaxed.reconstruction,  # The KL is the same in both.
            "code_perplexity": self._counted("code_perplexity", "perplexity", tokens),
            "codes_used": self._counted("codes_used", "used", tokens),
            "psnr": psnr(model.decode(tokens), batch.images),
        }

    def _counted(self, name: str, number: Literal["perplexity", "used"], tokens: Tensor) -> Metric:
        """The measure of that name, with these tokens counted too."""
        if name not in self.measures:
            self.measures[name] = CodeCounts(self.averaged_model.network.num_codes, number).to(tokens.device)
        metric = self.measures[name]
        assert isinstance(metric, CodeCounts)
        metric.update(tokens)
        return metric

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(2 x N, 3, H, W), N `samples_shown` or 16: reconstructions from the tokens, then the pictures."""
        images = batch.images[: self.shown_count]
        return torch.cat([self.averaged_model.decode(self.averaged_model.encode(images)), images])

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """tokens (B, h, w) int64, and the images (B, C, H, W) uint8 that they decode to; nothing is drawn."""
        tokens = self.averaged_model.encode(batch.images)
        return {"tokens": tokens, "images": to_uint8(self.averaged_model.decode(tokens))}
