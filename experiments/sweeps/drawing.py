"""The pictures of one point of a sweep. They are drawn as `unclip sample` draws: in batches, resumable, on devices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.sampling.jobs import Job
from experiments.sampling.score_statistics import Statistics
from modules.conditions import CONDITIONS
from modules.images.tensors import to_uint8
from modules.manipulations.ranking import Best, Place
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds, image_generators

Drawn = dict[str, Tensor | None]
"""Embeddings drawn so far, by condition, prior settings and pictures: a sweep of the decoder draws them once."""


@dataclass(frozen=True)
class PointJob(Job):
    """As `Job`, with the decoder of section 5.1 and with samplers that need statistics of the score.

    Attributes:
        decoder: the stage that draws: decoder, glide or text_decoder.
        of_prior: the prior's settings.
        statistics: see `experiments.sampling.score_statistics`.
        drawn: embeddings so far, shared by the points of a sweep.
        title: for the bar.
        ranking: names all settings but the number of candidates, for points that have one; else None.
        best: the best candidates so far by `ranking` and pictures: a point of more candidates goes on from them.
        at_once: pictures that may be drawn together, of several candidates.
    """

    decoder: str = "decoder"
    of_prior: Mapping[str, Any] = field(default_factory=dict)
    statistics: Statistics | None = None
    drawn: Drawn = field(default_factory=dict)
    title: str = ""
    ranking: str | None = None
    best: dict[str, Best] = field(default_factory=dict)
    at_once: int = 1

    @property
    def label(self) -> str:
        return self.title or super().label

    def embedded(self, system: UnCLIP, numbers: list[int]) -> tuple[Tensor, Tensor | None]:
        """tokens (B, L) of pictures, 0 where the decoder is given no caption, and what it is given as z_i."""
        requests = [self.requests[k // self.n] for k in numbers]
        tokens, z_t = system.embed_text([request.caption for request in requests])
        key = json.dumps([self.condition, self.of_prior, numbers], sort_keys=True)
        if key not in self.drawn:
            generators, away = self.generators(numbers), system.negative_captions(self.negative, len(numbers))
            true = self.true_images(numbers)
            self.drawn[key] = system.embedding(self.condition, tokens, z_t, generators, true, away)
        return (tokens if CONDITIONS[self.condition].caption else torch.zeros_like(tokens)), self.drawn[key]

    def generators(self, numbers: list[int]) -> list[torch.Generator]:
        """The generators of the priors' draws, one for each picture."""
        return image_generators(self.seed, self.places(numbers), "prior")

    def draw(self, system: UnCLIP, numbers: list[int]) -> Tensor:
        if self.statistics is not None:
            self.statistics.give(system, self.decoder)
        places = self.places(numbers)
        captions = [self.requests[k // self.n].caption for k in numbers]
        if self.ranking is not None:
            pictures, places = self._ranked(system, captions, numbers)
            return to_uint8(self._enlarged(system, pictures, places))
        tokens, z_i = self.embedded(system, numbers)
        away = system.negative_captions(self.negative, len(numbers))
        not_this = system.negative_of(self.condition, away, self.generators(numbers))
        generators = image_generators(self.seed, places, "decoder")
        pictures = system.decode(tokens, z_i, generators, self.decoder, captions, not_this)
        return to_uint8(self._enlarged(system, pictures, places))

    def _enlarged(self, system: UnCLIP, pictures: Tensor, places: list[Place]) -> Tensor:
        return system.upsample(pictures, ImageSeeds.at(self.seed, places), self.size) if self.upsample else pictures

    def _ranked(self, system: UnCLIP, captions: list[str], numbers: list[int]) -> tuple[Tensor, list[Place]]:
        """The best candidates at the decoder's size, and their places; those of a smaller point are not drawn again."""
        key = json.dumps([self.ranking, numbers])
        before = self.best.get(key)
        start = before if before is not None and before.count <= self.best_of else None
        given = (self.true_images(numbers), self.negative, start, self.decoder, self.at_once)
        best = system.ranked(captions, self.condition, self.seed, self.places(numbers), self.best_of, *given)
        self.best[key] = best
        return best.pictures, best.places

    def places(self, numbers: list[int]) -> list[tuple[int, int]]:
        """(caption's position, sample's position) of pictures."""
        return [(self.requests[k // self.n].index, k % self.n) for k in numbers]
