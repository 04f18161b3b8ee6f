"""Checks before a sweep draws anything: that its points can be sampled, and compared with its reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eval.measure import check_comparable, content_shared
from eval.samples.folder import SampleFolder
from modules.conditions import CONDITIONS
from modules.diffusion.schedules import noise_interval
from modules.errors import InputError
from modules.manipulations.enlarging import reachable_sizes
from modules.manipulations.inversion import decoder_size
from modules.models.base import Model
from modules.models.diffusion_model import DiffusionModel
from modules.pipeline import UnCLIP

if TYPE_CHECKING:
    from experiments.sweeps.points import Sampler

SAME_PAIR = ("caption", "caption_index", "sample_index", "split", "scene")


def check_points(sampler: Sampler, points: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Raises InputError for a point that the run's stages cannot be sampled at."""
    plan = sampler.plan
    if plan.space == "embeddings" and plan.captions * plan.per_caption < 2:
        raise InputError("the metrics need 2 samples or more, this sweep draws 1: take more captions")
    for condition, settings in points:
        own = CONDITIONS[condition]
        if plan.space == "embeddings" and not own.has_embedding:
            raise InputError(f"the condition {condition} gives no embedding; leave it out of sweeps of embeddings")
        sampler.override(condition, settings)
        if plan.negative and plan.space == "images":
            sampler.system.check_negative(condition)
        if plan.space == "images":
            check_stage(sampler.system, sampler.decoder(condition), estimated=True)
        if own.prior is not None:
            check_stage(sampler.system, own.prior)
        for name in sampler.upsamplers:
            check_stage(sampler.system, name)


def check_stage(system: UnCLIP, name: str, estimated: bool = False) -> None:
    """Raises InputError if a stage cannot be sampled as it is set here.

    Args:
        system: with the settings in its overrides.
        name: of the stage.
        estimated: whether statistics that it lacks are estimated.
    """
    # Refuses settings that the stage does not have, steps that its schedule lacks, a variance that was not learned.
    model = system.model(name, Model)
    if not isinstance(model, DiffusionModel):
        return
    sampler = model.sampler
    if sampler.guidance_interval is not None:
        try:
            noise_interval(model.objective.noise_schedule, *sampler.guidance_interval)
        except ValueError as error:
            raise InputError(f"{name}: guidance_interval: {error}") from error
    if not sampler.needs_statistics:
        return
    schedule = model.trajectory
    if float(schedule.alpha_bar[-1]) == 0:
        raise InputError(f"{name}: {sampler.name} is not defined for a schedule that ends without signal")
    if not estimated and not model.has_statistics:
        raise InputError(
            f"{name}: {sampler.name} has no statistics of the score for these {schedule.num_steps} timesteps, only for"
            " those that the stage was trained to be sampled at; keep its steps and spacing, or take another sampler"
        )


def check_reference(sampler: Sampler, conditions: Sequence[str], reference: SampleFolder) -> None:
    """Refuses a reference that `unclip evaluate` would refuse for the sweep's samples.

    Raises:
        InputError: another picture size, too few samples or real images, or a reference that holds the real images of
            the sampled captions.
    """
    rows = [sampler.real.records[k] for own in sampler.images for k in own]
    own = replace(sampler.real, records=rows)
    shared = max(content_shared(own, reference), same_pairs(own, reference))
    if 2 * shared > len(own):
        raise InputError(
            f"the reference {reference.path} holds {shared} of the {len(own)} real images of the sampled captions"
            f" ({sampler.real.path}): every distance would be too small; export a reference from other pairs"
        )
    lines = [{**sampler.rows[0], "sha256": "not drawn yet"}] * (len(sampler.rows) * sampler.plan.per_caption)
    for side in dict.fromkeys(sample_size(sampler, condition) for condition in conditions):
        check_comparable([SampleFolder(sampler.folder, lines, (side, side))], reference)


def same_pairs(folder: SampleFolder, reference: SampleFolder) -> int:
    """How many records of a folder name a data pair that the reference holds too, at whatever picture size."""
    theirs = {_pair(record) for record in reference.records if record.get("split")}
    return sum(_pair(record) in theirs for record in folder.records if record.get("split"))


def _pair(record: Mapping[str, Any]) -> str:
    return repr([record.get(key) for key in SAME_PAIR])


def sample_size(sampler: Sampler, condition: str) -> int:
    """Side of the images of a condition."""
    first = decoder_size(sampler.system, sampler.decoder(condition))
    return reachable_sizes(sampler.system, None, first)[-1] if sampler.plan.upsample else first
