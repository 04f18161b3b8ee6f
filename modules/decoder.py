"""Trains the decoder and GLIDE (`modules.models.decoder`)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from modules.batches import ImageTextBatch
from modules.clip.caption_tokens import Reads
from modules.images.tensors import to_uint8
from modules.models.configs import Objective, SamplerConfig
from modules.models.decoder import DecoderModel, first_captions
from modules.networks.decoder import DecoderNetwork
from modules.training.conditioning import fit_conditioning
from modules.training.diffusion_stage import DiffusionStage
from modules.training.measures import thumbnails
from modules.training.model_stage import per_sample_generators
from modules.training.stage import TrainingConfig, adamw
from modules.training.whitening import fit_whitenings


class Decoder(DiffusionStage[DecoderModel, ImageTextBatch]):
    """Trains a DecoderNetwork on images with cached embeddings and caption tokens.

    Args:
        network: the trained network.
        objective: by default the paper's: epsilon with learned sigma, cosine schedule, 1,000 steps.
        sampler: how validation and `unclip sample` draw from it.
        drop_text, drop_embedding: how often the caption and z_i are dropped, independently of each other.
        embedding: which CLIP embedding conditions it: "z_i", or "z_t" for the text-embedding decoder of section 5.1.
        statistics_samples: see DiffusionStage.
        reads: which tokens of the caption its text encoder reads: the CLIP's, or its own byte pairs or characters.
        embedding_noise: the highest level of noise that is added to z_i in training, 0 for none.
        noise_level: level of the noise that is added to z_i in sampling.
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
        reads: Reads = "clip",
        embedding_noise: int = 0,
        noise_level: int = 0,
    ) -> None:
        model = DecoderModel(
            network,
            objective,
            sampler,
            drop_text=drop_text,
            drop_embedding=drop_embedding,
            embedding=embedding,
            reads=reads,
            embedding_noise=embedding_noise,
            noise_level=noise_level,
        )
        super().__init__(model, optimizer, training, statistics_samples)

    judged: ClassVar[int | None] = 0

    def on_fit_start(self) -> None:
        """Fit the whitening of z_i to the training embeddings, and take the empty caption, where the network has them.

        A resumed run has both already. So has a run that starts from given weights, which were trained with them.
        """
        fit_whitenings(self, self._model.embedding)
        fit_conditioning(self)

    @property
    def drawing_model(self) -> DecoderModel:
        """The model for validation and `unclip predict`; without guidance by a CLIP or a weak decoder."""
        model = self.averaged_model
        return replace(model, sampler=replace(model.sampler, clip_guidance_scale=0.0, guided_from="unconditional"))

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor | Metric]:
        """A Frechet distance of pictures at 4 x 4 px from the true ones, if `training.samples_judged` is 2 or more."""
        model, count = self.drawing_model, self.judged_count or 0
        if count < 2:
            return {}
        captions, z_i = model.conditions(batch)
        tokens = first_captions(captions, count)
        z_i, images = None if z_i is None else z_i[:count], batch.images[:count]
        drawn = model.sample(tokens, z_i, per_sample_generators(len(images)), size=images.shape[-1])
        return {"frechet": self.frechet_of(thumbnails(drawn), thumbnails(images))}

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(2 x N, 3, H, W), N `samples_shown` or 16: samples, then the true images whose conditions they were given."""
        model, count = self.drawing_model, min(self.shown_count, len(batch.images))
        first = batch.rows(torch.arange(len(batch.images), device=batch.images.device) < count)
        drawn = model.sample(*model.conditions(first), per_sample_generators(count), size=batch.images.shape[-1])
        return torch.cat([drawn, first.images])

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """images (B, C, H, W) uint8, drawn for the batch's captions and embeddings."""
        model, side = self.drawing_model, batch.images.shape[-1]
        return {"images": to_uint8(model.sample(*model.conditions(batch), generators, size=side))}
