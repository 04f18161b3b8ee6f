"""Stages that learn from a trained stage of the same network, the teacher, to need fewer evaluations."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property

import torch
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.diffusion.samplers.distillation import trajectory_pairs
from modules.errors import InputError
from modules.models.base import outputs_of
from modules.models.configs import Objective, SamplerConfig
from modules.models.diffusion_model import DiffusionModel
from modules.models.exports import load_model
from modules.training.diffusion_stage import D, DiffusionStage
from modules.training.initial import MEANING

SAME = tuple(field.name for field in fields(Objective) if field.name not in MEANING["objective"])
"""Of an objective, what the network's output means; its loss and its draw of timesteps are the student's own."""


class DistillationStage(DiffusionStage[D, ImageTextBatch]):
    """Base of the LightningModules that distil a trained stage. It stands before the stage's own class in the bases.

    The student starts from the teacher's weights. Its objective may have another loss than the teacher's, but its
    output means the same.

    Attributes:
        teacher_folder: of the trained stage, or `shipped:NAME/STAGE`.
        progressive: whether steps are distilled.
    """

    teacher_folder: str
    progressive: bool
    _teacher: D | None = None

    def distillation_loss(self, student: D, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        """Scalar distance of the student's prediction from the teacher's."""
        raise NotImplementedError

    @cached_property
    def steps(self) -> Tensor:
        """See `distilled_steps`. Not made with the stage, which may be made as shapes only (`unclip plan`)."""
        return distilled_steps(self.objective, self.sampler)

    def prepared(self, teacher: D) -> D:
        """The teacher as it is learned from; as it was exported, unless a stage says otherwise."""
        return teacher

    @property
    def teacher(self) -> D:
        """The trained model, on this stage's device; kept out of the module tree, so that no checkpoint holds it.

        Raises:
            InputError: it is a model of another kind, or its output means something else than the student's.
        """
        if self._teacher is None:
            model = load_model(self.teacher_folder, type(self._model)).model
            check_meaning(self.objective, model, self.teacher_folder)
            self._teacher = self.prepared(model)
            self._teacher.network.to(self.device)
        return self._teacher

    def check_start(self) -> None:
        super().check_start()
        if self.progressive:
            _ = self.steps
        if self.objective.timesteps == "loss_second_moment":
            raise InputError(
                "model.init_args.objective.timesteps is loss_second_moment: a distilled stage remembers no losses; "
                "take uniform"
            )
        theirs = {name: tensor.shape for name, tensor in self.teacher.network.state_dict().items()}
        own = {name: tensor.shape for name, tensor in self.network.state_dict().items()}
        if theirs != own:
            name = next(name for name in [*theirs, *own] if theirs.get(name) != own.get(name))
            raise InputError(
                f"model.init_args.network is not that of the teacher in {self.teacher_folder}: {name} is "
                f"{_shape(own.get(name))}, the teacher's {_shape(theirs.get(name))}"
            )

    def on_fit_start(self) -> None:
        """Start from the teacher's weights; a resumed run has its own, and `init_from` gives others."""
        self.teacher.network.to(self.device)  # It may have been read before the stage was moved.
        if not self.begins or self.initial:
            return
        self.check_start()
        for network in (self.network, self.averaged):
            network.load_state_dict(self.teacher.network.state_dict())

    def training_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self.distillation_loss(self.model, batch, generator)

    def validation_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self.distillation_loss(self.averaged_model, batch, generator)

    def loss_terms(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return outputs_of(self.network, lambda: self.training_loss(batch, generator))


def check_meaning(objective: Objective, teacher: DiffusionModel, folder: str) -> None:
    """Refuse a student whose output means something else than its teacher's.

    Raises:
        InputError: names the first setting that differs, and both values.
    """
    for name in SAME:
        own, other = getattr(objective, name), getattr(teacher.objective, name)
        if own != other:
            raise InputError(
                f"model.init_args.objective.{name} is {own}, that of the teacher in {folder} is {other}: give the "
                "student the teacher's"
            )


def distilled_steps(objective: Objective, sampler: SamplerConfig) -> Tensor:
    """(steps, 3) int64: the steps of a student's trajectory, each of two of the teacher's; see `trajectory_pairs`.

    Raises:
        InputError: another sampler than DDIM without noise; steps that lie too close for a half step between them; a
            network that predicts epsilon, which says nothing about the data where all is noise (2202.00512, section 4).
    """
    if objective.parameterization == "epsilon":
        raise InputError(
            "model.init_args.objective.parameterization is epsilon: steps are distilled for a teacher that predicts x0 "
            "or v"
        )
    for name, wanted in (("name", "ddim"), ("eta", 0)):
        if (found := getattr(sampler, name)) != wanted:
            raise InputError(f"model.init_args.sampler.{name} is {found}: steps are distilled for ddim with eta 0")
    try:
        return trajectory_pairs(objective.noise_schedule, sampler.steps, sampler.spacing)
    except ValueError as error:
        advice = "take fewer steps" if sampler.spacing == "trailing" else "take spacing trailing"
        raise InputError(
            f"model.init_args.sampler has {sampler.steps} steps with spacing {sampler.spacing}: {error}; {advice}"
        ) from None


def drawn_steps(steps: Tensor, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(count, 3) int64: for each sample one of `distilled_steps`, drawn uniformly."""
    return steps[torch.randint(len(steps), (count,), generator=generator)].to(device)


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a scalar"
