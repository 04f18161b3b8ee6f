"""One point of a sweep: drawn from the run's stages, and measured."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eval.bootstrap import LEVEL, Resampler, as_json
from eval.diversity import within_caption_distance
from eval.frechet import FeatureStatistics, frechet_interval, singular_warning
from eval.judges import Judges, look
from eval.measure import Reference, measure
from eval.samples import SampleFolder, write_samples
from eval.sweeps import FOLDER
from experiments.captions import COPIED, images_of
from experiments.provenance import commit, config_hash
from experiments.score_statistics import Statistics
from experiments.sweep_plan import TEXT_DECODER
from modules.errors import InputError
from modules.manipulations.enlarging import upsampler_names
from modules.pipeline import PRIORS, UnCLIP, image_generators
from modules.seeds import ImageSeeds

if TYPE_CHECKING:
    from experiments.sweep_plan import Plan

BATCH = 64


class Sampler:
    """Draws points of a sweep. Priors' embeddings are kept, so that a sweep over the decoder computes them once.

    Args:
        run: the run folder.
        plan: the sweep.
        real: the folder whose captions are used, and whose images are the true ones.
        device: where to compute.
        reference: what the samples are compared with; score statistics that a decoder lacks are of its images.

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
        self.drawn: dict[str, Tensor | None] = {}

    def has(self, condition: str) -> bool:
        """Whether the run holds the stages of a condition."""
        needed = [] if self.plan.space == "embeddings" else [self.decoder(condition)]
        needed += [condition] if condition in PRIORS else []
        if self.plan.upsample and not self.upsamplers:
            return False
        return all(map(self.system.has, needed))

    @staticmethod
    def decoder(condition: str) -> str:
        """The stage that draws the images."""
        return condition if condition in ("glide", TEXT_DECODER) else "decoder"

    def place(self, condition: str, settings: Mapping[str, Any], judged_by: Mapping[str, Any]) -> tuple[Path, str]:
        """The folder of a point, and the hash of everything that its numbers depend on."""
        words = [condition, *(f"{key.partition('.')[2]}{value}" for key, value in settings.items())]
        own = hashlib.sha256(json.dumps([condition, settings], sort_keys=True).encode()).hexdigest()[:6]
        folder = self.folder / (re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(words))[:80] + f"-{own}")
        stages = [condition] if condition in PRIORS else []
        stages += [] if self.plan.space == "embeddings" else [self.decoder(condition), *self.upsamplers]
        captions = [[r["caption"], r["caption_index"], r.get("sha256")] for r in self.rows]
        plan = {key: getattr(self.plan, key) for key in ("space", "per_caption", "seed", "bootstrap", "upsample")}
        weights = {name: self.system.stage(name).fingerprint for name in stages}
        samplers = {name: str(self.system.stage(name).settings.get("sampler")) for name in stages}
        content: dict[str, Any] = {"plan": plan, "captions": captions, "settings": settings, "condition": condition}
        if condition == "image_embedding" or self.plan.space == "embeddings":
            content["true images"] = [[self.real.records[k].get("sha256") for k in own] for own in self.images]
        if self.estimates(condition, settings):
            content["images of the score's statistics"] = self.statistics.count
        content |= {"weights": weights, "samplers": samplers, "clip": self.system.clip.fingerprint}
        return folder, config_hash(content | {"judges": dict(judged_by)})

    def override(self, condition: str, settings: Mapping[str, Any]) -> None:
        """Gives the system the settings of a point."""
        chosen: dict[str, dict[str, Any]] = {}
        names = {
            "prior": [condition],
            "decoder": [self.decoder(condition)],
            "upsampler": self.upsamplers,
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

    def chunks(self) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """Rows of captions and (caption's position, sample's position), some at a time."""
        places = [(row, sample) for row in range(len(self.rows)) for sample in range(self.plan.per_caption)]
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            yield [row for row, _ in part], [(self.rows[row]["caption_index"], sample) for row, sample in part]

    def embeddings(self, condition: str, settings: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor | None, Any]]:
        """tokens, what the decoder is given as z_i, and the places, for each chunk."""
        of_prior = {key: value for key, value in settings.items() if key.startswith("prior.")}
        for k, (rows, places) in enumerate(self.chunks()):
            tokens, z_t = self.system.embed_text([self.rows[row]["caption"] for row in rows])
            key = json.dumps([condition, of_prior, k], sort_keys=True)
            if key not in self.drawn:
                generators = image_generators(self.plan.seed, places, "prior")
                given = "text_embedding" if condition == TEXT_DECODER else condition
                images = self.true_images(rows, places) if condition == "image_embedding" else None
                self.drawn[key] = self.system.embedding(given, tokens, z_t, generators, images)
            yield tokens, self.drawn[key], places

    def true_images(self, rows: list[int], places: list[tuple[int, int]]) -> Tensor:
        """(B, 3, H, W) in [-1, 1]: for sample k of a caption, that caption's real image k."""
        chosen = [self.true_image(row, sample) for row, (_, sample) in zip(rows, places, strict=True)]
        return torch.cat([self.real.images(k, k + 1) for k in chosen]).float() / 127.5 - 1

    def true_image(self, row: int, sample: int) -> int:
        """The position of the real image that a sample stands beside: in turn where there are fewer."""
        return self.images[row][sample % len(self.images[row])]

    def measure_images(
        self, condition: str, settings: Mapping[str, Any], folder: Path, judges: Judges, reference: Reference
    ) -> dict[str, Any]:
        """Draws the images of a point into `folder`, and measures them."""
        self.override(condition, settings)
        self.statistics.give(self.system, self.decoder(condition))
        pictures = []
        for tokens, z_i, places in self.embeddings(condition, settings):
            drawn = self.system.decode(
                tokens, z_i, image_generators(self.plan.seed, places, "decoder"), self.decoder(condition)
            )
            if self.plan.upsample:
                drawn = self.system.upsample(drawn, ImageSeeds.at(self.plan.seed, places))
            pictures.append(((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
        known = ("caption", "caption_index", *COPIED)
        shared = {"condition": condition, "seed": self.plan.seed, "settings": dict(settings), "commit": commit()}
        records = [
            {**{key: self.rows[row][key] for key in known if key in self.rows[row]}, "sample_index": sample, **shared}
            for row in range(len(self.rows))
            for sample in range(self.plan.per_caption)
        ]
        samples = write_samples(folder, torch.cat(pictures), records, overwrite=True)
        seen = look(samples, judges)
        row = measure(samples, seen, judges, reference, self.plan.bootstrap, self.plan.seed)
        estimated = self.statistics.count if self.estimates(condition, settings) else None
        return {**row, "score_statistics": estimated}

    def measure_embeddings(self, condition: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Draws z_i, and measures them against true ones: sample k's against real image k's, and those of all."""
        self.override(condition, settings)
        drawn = [z_i for _, z_i, _ in self.embeddings(condition, settings)]
        if any(z_i is None for z_i in drawn):
            raise InputError(f"the condition {condition} gives no embedding; leave it out of sweeps of embeddings")
        z_i = torch.cat([z for z in drawn if z is not None]).double().cpu().numpy()
        rows = np.repeat(np.arange(len(self.rows)), self.plan.per_caption)
        true, text, population = self.truth()
        resampler = Resampler(rows, self.plan.bootstrap, self.plan.seed)
        statistics = FeatureStatistics.of(population)
        warned = singular_warning(len(z_i), z_i.shape[1])
        return {
            "n": len(z_i),
            "frechet": as_json(frechet_interval(z_i, statistics, resampler)),
            "cosine_true": as_json(resampler.mean((z_i * true).sum(1))),
            "cosine_text": as_json(resampler.mean((z_i * text[rows]).sum(1))),
            "diversity": as_json(resampler.mean(within_caption_distance(z_i, rows))),
            "warnings": [f"z_i: {warned}"] if warned else [],
            "protocol": {
                "n": len(z_i),
                "captions": len(self.rows),
                "per_caption": self.plan.per_caption,
                "clip": self.system.clip.fingerprint,
                "reference_n": len(population),
                "bootstrap": self.plan.bootstrap,
                "level": LEVEL,
                "seed": self.plan.seed,
            },
        }

    def truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z_i of each sample's real image, the captions' z_t, and z_i of all real images of the folder."""
        if not hasattr(self, "_truth"):
            parts = [
                self.system.embed_image(self.real.images(k, k + BATCH).float() / 127.5 - 1)
                for k in range(0, len(self.real), BATCH)
            ]
            population = torch.cat(parts).double().cpu().numpy()
            _, z_t = self.system.embed_text([row["caption"] for row in self.rows])
            places = [(row, k) for row in range(len(self.rows)) for k in range(self.plan.per_caption)]
            true = population[[self.true_image(row, k) for row, k in places]]
            self._truth = true, z_t.double().cpu().numpy(), population
        return self._truth

    def evaluations(self, condition: str, settings: Mapping[str, Any]) -> int | None:
        """How often a network is evaluated for one sample: the decoder's, or in sweeps of embeddings the prior's."""
        self.override(condition, settings)
        if self.plan.space == "images":
            sampler = self.system.sampler(self.decoder(condition))
            return sampler.steps * (2 if sampler.guidance_scale != 1 else 1)
        if condition == "diffusion_prior":
            sampler = self.system.sampler(condition)
            candidates = int(self.system.overrides.get(condition, {}).get("candidates", 2))
            return sampler.steps * candidates * (2 if sampler.guidance_scale != 1 else 1)
        if condition == "ar_prior":
            stored = self.system.stage(condition)
            scale = self.system.overrides.get(condition, {}).get("guidance_scale", stored.settings["guidance_scale"])
            return int(stored.extra.get("codec.kept_count", stored.network.num_codes)) * (2 if scale != 1 else 1)
        return 1 if condition == "linear_prior" else None
