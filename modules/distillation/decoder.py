"""Trains a decoder that needs fewer evaluations, from one that is trained: by guidance and by step distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.decoder import Decoder
from modules.diffusion.denoiser import Denoiser
from modules.diffusion.gaussian import q_sample
from modules.diffusion.samplers.distillation import two_steps_as_one
from modules.distillation.stage import DistillationStage, drawn_steps
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.decoder import CaptionInput, DecoderModel, no_captions
from modules.networks.decoder import Condition, DecoderNetwork
from modules.training.stage import TrainingConfig, adamw


class DistilledDecoder(DistillationStage[DecoderModel], Decoder):
    """Trains a decoder to give in one evaluation what its teacher gives, under guidance, in two (2210.03142, 3.1).

    With `progressive`, the student learns to do in one DDIM step what the guided teacher does in two, on the trajectory
    of the sampler's steps (Progressive Distillation, 2202.00512). Sample the student with DDIM in that number of steps,
    and without guidance, because the guidance is in its weights already.

    Args:
        network: the same settings as the teacher's; it starts from the teacher's weights.
        teacher: folder of the trained stage, or `shipped:NAME/decoder`; its weights do not change.
        teacher_guidance: guidance scale under which the teacher is learned from; null for the teacher's own.
        progressive: whether to distil steps too; without, timesteps are drawn as in training.
        objective: the teacher's, but for its loss (weighting, gamma, huber_scale, bound_weight) and its timesteps,
            which may differ. With `progressive` it may not predict epsilon, and its timesteps are not used.
        sampler, drop_text, drop_embedding, embedding, statistics_samples, optimizer, training: see Decoder.

    Raises:
        InputError: a teacher with another network, or whose output means something else; a sampler that does not fit
            (`progressive` needs DDIM without noise, and guidance would be applied twice).
    """

    def __init__(
        self,
        network: DecoderNetwork,
        teacher: str,
        teacher_guidance: float | None = None,
        progressive: bool = False,
        objective: Objective = Objective(learned_sigma=True),
        sampler: SamplerConfig = SamplerConfig(name="ddim", steps=4),
        drop_text: float = 0.5,
        drop_embedding: float = 0.1,
        embedding: Literal["z_i", "z_t"] = "z_i",
        statistics_samples: int = 2048,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        shares = (drop_text, drop_embedding)
        super().__init__(network, objective, sampler, *shares, embedding, statistics_samples, optimizer, training)
        if sampler.guidance_scale != 1:
            raise InputError(
                f"model.init_args.sampler.guidance_scale is {sampler.guidance_scale}: the student has learned it"
            )
        self.teacher_folder, self.teacher_guidance, self.progressive = teacher, teacher_guidance, progressive

    def prepared(self, teacher: DecoderModel) -> DecoderModel:
        guidance = self.teacher_guidance
        return teacher if guidance is None else teacher.overridden("teacher", {"guidance_scale": guidance})

    def distillation_loss(self, student: DecoderModel, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        x0 = student.in_layout(batch.images)
        tokens, z_i = student.conditions(batch)
        t, noise, x_t = student.drawn(x0, generator)
        keep = {
            name: (torch.rand(len(x0), generator=generator) >= share).to(x0.device)
            for name, share in (("keep_text", student.drop_text), ("keep_embedding", student.drop_embedding))
        }
        teach, schedule = self._guided(tokens, z_i, keep), self.objective.noise_schedule
        if self.progressive:
            places = drawn_steps(self.steps, len(x0), generator, x0.device)
            t = places[:, 0]
            x_t = q_sample(schedule, x0, t, noise)
        with torch.no_grad():
            target = two_steps_as_one(teach, schedule, x_t, places) if self.progressive else teach(x_t, t)
        output = student.network(
            x_t,
            t,
            student.network.condition(tokens, z_i, keep_text=keep["keep_text"], keep_embedding=keep["keep_embedding"]),
        )
        return self.objective.loss(output, target.x0, target.epsilon, t).mean()

    def _guided(self, tokens: CaptionInput, z_i: Tensor | None, keep: dict[str, Tensor]) -> Denoiser:
        """The teacher under its guidance, given what the student is given."""
        teacher = self.teacher
        with torch.no_grad():
            both = teacher.network.condition(
                tokens, z_i, keep_text=keep["keep_text"], keep_embedding=keep["keep_embedding"]
            )
            if teacher.sampler.guidance_scale == 1:
                predict: Callable[[Tensor, Tensor], Tensor] = lambda x, t: teacher.network(x, t, both)  # noqa: E731
            else:
                stacked = Condition.stack([both, teacher.network.condition(no_captions(tokens), None)])
                predict = teacher.guided(lambda x, t: teacher.network(x, t, stacked))
        return teacher.as_denoiser(predict, teacher.sampler.clip)
