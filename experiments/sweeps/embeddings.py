"""Points of a sweep over priors: z_i measured against true ones, without a decoder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from eval.measure import content_digest
from eval.metrics.bootstrap import LEVEL, Resampler, as_json
from eval.metrics.diversity import within_caption_distance
from eval.metrics.frechet import FeatureStatistics, singular_warning
from eval.metrics.frechet_interval import frechet_interval
from eval.protocol import captions_digest
from experiments.sweeps.points import Sampler


class EmbeddingJudge:
    """Measures the embeddings of a sweep's points.

    Args:
        sampler: of the sweep.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.plan = sampler, sampler.plan
        self.places = [(row, k) for row in range(len(sampler.rows)) for k in range(sampler.plan.per_caption)]

    def draw(self, condition: str, settings: Mapping[str, Any]) -> np.ndarray:
        """(N, D) float64 of unit norm, captions' samples one after another."""
        job, system = self.sampler.job(condition, settings, ""), self.sampler.system
        drawn = [job.embedded(system, numbers)[1] for numbers in job.batches(self.plan.batch_size, ())]
        z_i: np.ndarray = torch.cat([z for z in drawn if z is not None]).cpu().double().numpy()
        return z_i

    def timed(self, condition: str, settings: Mapping[str, Any]) -> tuple[float, np.ndarray]:
        """Seconds that `draw` takes, CLIP's text encoder included, and what it draws.

        They are of the CPU's own time, or of the clock on an accelerator.
        """
        self.sampler.override(condition, settings)
        for name in self.sampler.priors(condition):
            self.sampler.system.stage(name)  # Reading the file does not count.
        clock = time.process_time if self.sampler.system.device.type == "cpu" else time.perf_counter
        began = clock()
        z_i = self.draw(condition, settings)  # Ends on the CPU, so that all of it is done.
        return clock() - began, z_i

    def measure(self, condition: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Draws z_i; compares sample k's with real image k's, and all of them with those of all real images."""
        seconds, z_i = self.timed(condition, settings)
        drawn, true, text = map(self._directions, (z_i, self.true, self.text))
        rows = np.array([row for row, _ in self.places])
        resampler = Resampler(rows, self.plan.bootstrap, self.plan.seed)
        warned = singular_warning(len(z_i), z_i.shape[1])
        return {
            "n": len(z_i),
            "seconds": {"value": seconds / len(z_i)},
            "frechet": as_json(frechet_interval(z_i, FeatureStatistics.of(self.population), resampler)),
            "cosine_true": as_json(resampler.mean((drawn * true).sum(1))),
            "finds_own": as_json(resampler.mean(self.finds_own(drawn))),
            "cosine_text": as_json(resampler.mean((drawn * text[rows]).sum(1))),
            "diversity": as_json(resampler.mean(within_caption_distance(z_i, rows))),
            "warnings": [f"z_i: {warned}"] if warned else [],
            "protocol": {
                "n": len(z_i),
                "captions": len(self.sampler.rows),
                "captions_digest": captions_digest(self.sampler.rows[row] for row, _ in self.places),
                "per_caption": self.plan.per_caption,
                "clip": self.sampler.system.clip.fingerprint,
                "reference": self.sampler.real.path.resolve().name,
                "reference_n": len(self.population),
                "candidates": len(self.candidates),
                "reference_digest": content_digest(self.sampler.real),
                "bootstrap": self.plan.bootstrap,
                "level": LEVEL,
                "seed": self.plan.seed,
            },
        }

    def finds_own(self, drawn: np.ndarray) -> np.ndarray:
        """(N,) 1 where the true z_i of the sample's own image is the nearest among those of all samples' images.

        Args:
            drawn: (N, D) of unit norm.
        """
        nearest = (drawn @ self._directions(self.population[self.candidates]).T).argmax(axis=1)
        found: np.ndarray = (self.candidates[nearest] == np.array(self._own_images)).astype(np.float64)
        return found

    @property
    def candidates(self) -> np.ndarray:
        """The numbers of all samples' images, each once."""
        return np.unique(self._own_images)

    def _directions(self, z: np.ndarray) -> np.ndarray:
        """(N, D) embeddings of unit norm, as which they come unless they are a CLIP's own."""
        if not self.sampler.system.raw:
            return z
        found: np.ndarray = z / np.linalg.norm(z, axis=1, keepdims=True)
        return found

    @cached_property
    def population(self) -> np.ndarray:
        """z_i of all real images of the captions' folder."""
        real, system = self.sampler.real, self.sampler.system
        size = self.plan.batch_size
        starts = range(0, len(real), size)
        parts = [system.embed_image(real.images(k, k + size).float() / 127.5 - 1) for k in starts]
        found: np.ndarray = torch.cat(parts).cpu().double().numpy()
        return found

    @property
    def true(self) -> np.ndarray:
        """(N, D): z_i of each sample's real image."""
        chosen: np.ndarray = self.population[self._own_images]
        return chosen

    @cached_property
    def _own_images(self) -> list[int]:
        """The number of each sample's real image."""
        requests = [self.sampler.request(row) for row in range(len(self.sampler.rows))]
        return [requests[row].image(k) for row, k in self.places]

    @cached_property
    def text(self) -> np.ndarray:
        """z_t of each caption."""
        _, z_t = self.sampler.system.embed_text([row["caption"] for row in self.sampler.rows])
        found: np.ndarray = z_t.cpu().double().numpy()
        return found
