"""The points of a sweep: sets their settings, draws their pictures with the run's stages, and measures them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eval.judges.judges import Judges, look
from eval.measure import Reference, measure
from eval.samples.drawn import Drawn as How
from eval.samples.drawn import drawn
from eval.samples.folder import SampleFolder
from eval.samples.shards import Shards
from eval.tables.sweeps import FOLDER
from experiments.sampling.captions import COPIED, Request, images_of
from experiments.sampling.drawing import draw
from experiments.sampling.jobs import Drawing
from experiments.sampling.request import attribution_field, sampled_how
from experiments.sampling.score_statistics import Statistics
from experiments.storage.provenance import commit
from experiments.sweeps.drawing import Drawn, PointJob
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.manipulations.enlarging import upsampler_names
from modules.manipulations.ranking import Best
from modules.models.base import Model
from modules.models.diffusion_model import DiffusionModel
from modules.pipeline import UnCLIP

if TYPE_CHECKING:
    from experiments.sweeps.plan import Plan


@dataclass(frozen=True)
class Devices:
    """The devices on which pictures are drawn.

    Attributes:
        device: its type and, if `count` is 1, its number.
        count: how many processes, each with a device.
        strategy: of Lightning's Trainer.
        first: whether this is the first of the processes.
    """

    device: torch.device
    count: int = 1
    strategy: str = "auto"
    first: bool = True


class Sampler:
    """Draws points of a sweep.

    Args:
        run: the run folder.
        plan: the sweep.
        real: the folder whose captions are used, and whose images are the true ones.
        device: where to compute.
        reference: real images that the samples are compared with. A decoder without score statistics gets them from
            these images, too.

    Raises:
        InputError: fewer captions than the sweep asks for.
    """

    def __init__(
        self,
        run: Path,
        plan: Plan,
        real: SampleFolder,
        device: str | torch.device,
        reference: SampleFolder | None = None,
    ) -> None:
        self.run, self.plan, self.real = run, plan, real
        self.system = UnCLIP(run, device)
        self.folder = run / FOLDER / plan.name
        self.upsamplers = upsampler_names(self.system) if plan.upsample else []
        self.statistics = Statistics(reference or real, plan.seed)
        images = list(images_of(real.records).values())
        if len(images) < plan.captions:
            raise InputError(
                f"{real.path} holds {len(images)} captions, the sweep {plan.name} asks for {plan.captions}"
            )
        self.images = images[: plan.captions]
        self.rows = [real.records[own[0]] for own in self.images]
        self.drawn: Drawn = {}
        self.best: dict[str, Best] = {}

    def has(self, condition: str) -> bool:
        """Whether the run holds the stages of a condition."""
        needed = [*self.priors(condition)]
        needed += [] if self.plan.space == "embeddings" else [self.decoder(condition)]
        if self.plan.upsample and not self.upsamplers:
            return False
        return all(map(self.system.has, needed))

    def decoder(self, condition: str) -> str:
        """The stage that draws the images: the sweep's, or the condition's own."""
        return self.plan.decoder or CONDITIONS[condition].decoder

    @staticmethod
    def priors(condition: str) -> list[str]:
        """The stage that draws z_i; none where the decoder is given something else."""
        prior = CONDITIONS[condition].prior
        return [] if prior is None else [prior]

    def place(self, condition: str, settings: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
        """The folder of a point, and everything that its pictures or embeddings depend on."""
        words = [condition, *(f"{key.partition('.')[2]}{value}" for key, value in settings.items())]
        own = hashlib.sha256(json.dumps([condition, settings], sort_keys=True).encode()).hexdigest()[:6]
        folder = self.folder / (re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(words))[:80] + f"-{own}")
        stages = self.priors(condition)
        stages += [] if self.plan.space == "embeddings" else [self.decoder(condition), *self.upsamplers]
        captions = [[r["caption"], r["caption_index"], r.get("sha256")] for r in self.rows]
        plan = {key: getattr(self.plan, key) for key in ("space", "per_caption", "seed", "bootstrap", "upsample")}
        weights = {name: self.system.stage(name).fingerprint for name in stages}
        samplers = {name: str(getattr(self.system.stage(name).model, "sampler", None)) for name in stages}
        content: dict[str, Any] = {"plan": plan, "captions": captions, "settings": settings, "condition": condition}
        if self.plan.negative:
            content["negative"] = self.plan.negative
        if CONDITIONS[condition].needs_images or self.plan.space == "embeddings":
            content["true images"] = [[self.real.records[k].get("sha256") for k in own] for own in self.images]
        if self.system.ranking_clip is not None:
            content["ranking CLIP"] = self.system.ranking_clip.fingerprint
        if self.estimates(condition, settings):
            content["images of the score's statistics"] = self.statistics.count
        content |= {"weights": weights, "samplers": samplers, "clip": self.system.clip.fingerprint}
        further = {name: further_settings(self.system.stage(name).model) for name in stages}
        if any(further.values()):
            content["further settings"] = further
        return folder, content

    def override(self, condition: str, settings: Mapping[str, Any]) -> None:
        """Gives the system the settings of a point."""
        chosen: dict[str, dict[str, Any]] = {}
        names = {
            "prior": self.priors(condition),
            "decoder": [self.decoder(condition)],
            "upsampler": self.upsamplers,
            "ranking": [],  # No stage.
        }
        for key, value in settings.items():
            stage, _, setting = key.partition(".")
            for name in names[stage]:
                chosen.setdefault(name, {})[setting] = value
        self.system.overrides = chosen

    def estimates(self, condition: str, settings: Mapping[str, Any]) -> bool:
        """Whether a point's sampler needs statistics of the score that its decoder was not trained with."""
        self.override(condition, settings)
        name = self.decoder(condition)
        return self.plan.space == "images" and self.statistics.lacking(self.system, name)

    def job(self, condition: str, settings: Mapping[str, Any], title: str) -> PointJob:
        """The pictures of a point."""
        self.override(condition, settings)
        shared = {"condition": condition, "settings": dict(settings), "clip": self.system.clip.fingerprint}
        shared |= {"negative": self.plan.negative} if self.plan.negative else {}
        count, chooser = settings.get("ranking.best_of", 1), self.system.ranking_clip
        if count > 1 and chooser is not None:  # As `unclip sample` says it: who chose must not judge.
            shared |= {"best_of": count, "rank_clip": chooser.fingerprint}
        return PointJob(
            [self.request(row) for row in range(len(self.rows))],
            self.plan.per_caption,
            condition,
            self.plan.seed,
            self.plan.upsample,
            {**shared, "commit": commit(), **attribution_field(self.system.run)},
            self.real if CONDITIONS[condition].needs_images else None,
            negative=self.plan.negative,
            decoder=self.decoder(condition),
            of_prior={key: value for key, value in settings.items() if key.startswith("prior.")},
            statistics=self.statistics,
            drawn=self.drawn,
            title=title,
            best_of=count,
            ranking=json.dumps([condition, {k: v for k, v in settings.items() if not k.startswith("ranking.")}])
            if "ranking.best_of" in settings
            else None,
            best=self.best,
            at_once=self.plan.batch_size,
        )

    def request(self, row: int) -> Request:
        """A caption, as `unclip sample` takes it from the same folder."""
        record = self.rows[row]
        known = {key: record[key] for key in COPIED if key in record}
        return Request(record["caption"], record["caption_index"], known, tuple(self.images[row]))

    def draw(self, job: PointJob, folder: Path, request: Mapping[str, Any], devices: Devices) -> SampleFolder | None:
        """Draws the pictures of a point into `folder`, all processes together; what is there already is kept.

        Args:
            job: of the point, whose settings the system has.
            folder: where they go.
            request: all that decides the pictures; unfinished ones of another request are dropped.
            devices: what draws.

        Returns:
            The folder; None in all processes but the first.
        """
        shards = Shards(folder)
        drawing = Drawing(self.system, job, shards, self.plan.batch_size)
        if not devices.first:
            draw(drawing, devices.device, devices.count, devices.strategy)
            return None
        with shards.started(request, overwrite=True, resume=True) as finished:
            draw(replace(drawing, finished=finished), devices.device, devices.count, devices.strategy)
            return shards.finish(len(job), overwrite=True)

    def measure_images(
        self, condition: str, settings: Mapping[str, Any], samples: SampleFolder, judges: Judges, reference: Reference
    ) -> dict[str, Any]:
        """Measures the images of a point."""
        seen = look(samples, judges)
        row = measure(samples, seen, judges, reference, self.plan.bootstrap, self.plan.seed)
        estimated = self.statistics.count if self.estimates(condition, settings) else None
        return {**row, "score_statistics": estimated}

    def how(self, condition: str, settings: Mapping[str, Any]) -> How:
        """The sampler, steps, guidance and candidates of each stage that draws a point, as in `eval.samples.drawn`."""
        self.override(condition, settings)
        stages = dict(zip(("prior",), self.priors(condition), strict=False))
        if self.plan.space == "images":
            stages |= {"decoder": self.decoder(condition), **{name: name for name in self.upsamplers}}
        models = {part: self.system.model(name, Model) for part, name in stages.items()}
        candidates = {part: getattr(model, "candidates", 1) for part, model in models.items()}
        return drawn([{**sampled_how(models), "candidates": {part: n for part, n in candidates.items() if n > 1}}])

    def evaluations(self, condition: str, settings: Mapping[str, Any]) -> int | None:
        """How often a network is evaluated for one sample: the decoder's, or in sweeps of embeddings the prior's."""
        self.override(condition, settings)
        prior = CONDITIONS[condition].prior
        if prior is not None and CONDITIONS[condition].z_i == "tokens":
            return self.system.token_prior(prior).evaluations
        if self.plan.space == "images":
            decoder = self.system.model(self.decoder(condition), Model)
            return decoder.evaluations if isinstance(decoder, DiffusionModel) else None
        return None if prior is None else self.system.prior(prior).evaluations


def further_settings(model: Model[Any]) -> dict[str, object]:
    """A model's settings of sampling that the text of its sampler does not show and that are not at their defaults."""
    found: dict[str, object] = {}
    for holder in (model, getattr(model, "sampler", None)):
        for own in fields(holder) if is_dataclass(holder) else ():
            value = getattr(holder, own.name)
            hidden = holder is model or not own.repr
            if own.name in model.overridable() and hidden and value != own.default:
                found[own.name] = value
    return found
