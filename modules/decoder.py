"""The decoder: p(x | z_i, y) at low resolution; with embedding_dim null in its network, GLIDE (unCLIP, section 2.1)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.diffusion.denoiser import Model
from modules.errors import InputError
from modules.images.tensors import to_uint8
from modules.models.configs import Objective, SamplerConfig
from modules.networks.decoder import DecoderNetwork
from modules.prior_batches import embeddings_of, per_sample_generators
from modules.sampling import sample_decoder
from modules.training.diffusion_stage import DiffusionStage
from modules.training.stage import TrainingConfig, adamw


class Decoder(DiffusionStage):
    """Trains a DecoderNetwork on images with cached embeddings and caption tokens.

    Args:
        network: what is trained.
        objective: the paper's: epsilon with learned sigma, cosine schedule, 1,000 steps.
        sampler: how validation and `unclip sample` draw from it.
        drop_text, drop_embedding: how often the caption and z_i are dropped, independently of each other.
        embedding: which CLIP embedding conditions it: "z_i", or "z_t" for the text-embedding decoder of section 5.1.
        statistics_samples: see DiffusionStage.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: DecoderNetwork,
        objective: Objective = Objective(learned_sigma=True),
        sampler: SamplerConfig = SamplerConfig(name="ddpm", steps=250, spacing="adm", variance="learned"),
        drop_text: float = 0.5,
        drop_embedding: float = 0.1,
        embedding: Literal["z_i", "z_t"] = "z_i",
        statistics_samples: int = 2048,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(network, objective, sampler, optimizer, training, statistics_samples)
        if network.learned_sigma != objective.learned_sigma:
            raise InputError(
                f"model.network.learned_sigma is {network.learned_sigma}, model.objective.learned_sigma is "
                f"{objective.learned_sigma}: make them equal"
            )
        self.drop_text, self.drop_embedding, self.embedding = drop_text, drop_embedding, embedding

    def _conditions(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor | None]:
        rows = embeddings_of(batch)
        return rows.tokens, None if self.network.embedding_dim is None else getattr(rows, self.embedding)

    def _loss(self, network: Any, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        x0 = batch.images
        if self.training_config.channels_last:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        tokens, z_i = self._conditions(batch)
        t, noise, x_t = self.draw(network, x0, generator)
        keep_text, keep_embedding = (
            (torch.rand(len(x0), generator=generator) >= share).to(x0.device)
            for share in (self.drop_text, self.drop_embedding)
        )
        condition = network.condition(tokens, z_i, keep_text=keep_text, keep_embedding=keep_embedding)
        return self.mean_loss(network, network(x_t, t, condition), x0, noise, t)

    def training_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.trained, batch, generator)

    def validation_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.averaged, batch, generator)

    def conditioned(self, batch: ImageTextBatch) -> tuple[Model, Tensor]:
        condition = self.averaged.condition(*self._conditions(batch))
        return lambda x_t, t: self.averaged(x_t, t, condition), batch.images

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(2 x 16, 3, H, W): samples, then the true images whose captions and embeddings they were given."""
        tokens, z_i = self._conditions(batch)
        tokens, z_i = tokens[:16], None if z_i is None else z_i[:16]
        drawn = self._draw(tokens, z_i, batch.images.shape[-1], per_sample_generators(len(tokens)))
        return torch.cat([drawn, batch.images[:16]])

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """images (B, C, H, W) uint8, drawn for the batch's captions and embeddings."""
        return {"images": to_uint8(self._draw(*self._conditions(batch), batch.images.shape[-1], generators))}

    def _draw(self, tokens: Tensor, z_i: Tensor | None, size: int, generators: list[torch.Generator]) -> Tensor:
        sampler, statistics = self.sampler_now, self.statistics
        return sample_decoder(
            self.averaged, self.objective, sampler, tokens, z_i, size, generators, statistics=statistics
        )
