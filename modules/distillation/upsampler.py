"""Trains an upsampler that needs half as many steps, from a trained one (Progressive Distillation, 2202.00512)."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.clip.caption_tokens import Reads
from modules.diffusion.gaussian import q_sample
from modules.diffusion.samplers.distillation import two_steps_as_one
from modules.distillation.stage import DistillationStage, drawn_steps
from modules.models.configs import Objective, SamplerConfig
from modules.models.upsampler import UpsamplerModel
from modules.networks.upsampler import UpsamplerNetwork
from modules.training.stage import TrainingConfig, adamw
from modules.upsampler import Upsampler


class DistilledUpsampler(DistillationStage[UpsamplerModel], Upsampler):
    """Trains an upsampler to do in one DDIM step what its teacher does in two (2202.00512, section 3).

    Both are given the same window of the picture, with the same corruption. An upsampler has no guidance, so there is
    none to learn. How the teacher was sampled does not matter. To go from 4 steps to 1, distil twice: the second
    student's teacher is the first student.

    Args:
        network: the same settings as the teacher's; it starts from the teacher's weights.
        teacher: folder of the trained stage, or `shipped:NAME/upsampler`; its weights do not change.
        objective: the teacher's, but for its loss (weighting, gamma, huber_scale, bound_weight), which may differ. It
            may not predict epsilon. Its timesteps are not used: those of the sampler's steps are drawn uniformly.
        sampler: DDIM with eta 0, in the number of steps that the student takes.
        crop, corruption, corruption_share, statistics_samples, optimizer, training, reads: see Upsampler.

    Raises:
        InputError: a teacher with another network, or whose output means something else; a sampler that does not fit.
    """

    def __init__(
        self,
        network: UpsamplerNetwork,
        teacher: str,
        objective: Objective = Objective(parameterization="x0"),
        sampler: SamplerConfig = SamplerConfig(name="ddim", steps=1, spacing="trailing"),
        crop: float = 0.25,
        corruption: Literal["none", "gaussian_blur", "bsr"] = "gaussian_blur",
        corruption_share: float = 1.0,
        statistics_samples: int = 2048,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
        reads: Reads = "clip",
    ) -> None:
        window = (crop, corruption, corruption_share)
        super().__init__(network, objective, sampler, *window, statistics_samples, optimizer, training, reads)
        self.teacher_folder, self.progressive = teacher, True

    def distillation_loss(self, student: UpsamplerModel, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        teacher, schedule = self.teacher, self.objective.noise_schedule
        x0, enlarged = student.window(batch, generator)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        places = drawn_steps(self.steps, len(x0), generator, x0.device)
        t = places[:, 0]
        x_t = q_sample(schedule, x0, t, noise)
        with torch.no_grad():
            teach = teacher.as_denoiser(teacher.given(enlarged, teacher.caption(batch)), teacher.sampler.clip)
            target = two_steps_as_one(teach, schedule, x_t, places)
        output = student.network(x_t, t, enlarged, None, student.caption(batch))
        return self.objective.loss(output, target.x0, target.epsilon, t).mean()
