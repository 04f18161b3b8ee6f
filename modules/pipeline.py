"""The whole system, for use: caption -> z_t -> prior -> z_i -> decoder -> upsampler -> image (unCLIP, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from modules.conditions import DEFAULT
from modules.errors import InputError
from modules.manipulations.enlarging import enlarge, upsampler_names
from modules.manipulations.methods import ImageMethods
from modules.manipulations.ranking import Best, Place, best_of
from modules.placement.settings import Placement, Precision
from modules.seeds import ImageSeeds, image_generators
from modules.trained_run import condition_named


class UnCLIP(ImageMethods):
    """A run's trained stages as one system; see `modules.trained_run.TrainedRun` for the arguments.

    `ImageMethods` has the methods for pictures (variations, interpolations, edits); `generate` draws captions.
    """

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        device: str | torch.device = "cpu",
        precision: Precision = "32",
        offload: bool = False,
        **overrides: dict[str, object],
    ) -> UnCLIP:
        """The system of a run folder, as in `UnCLIP.from_run("runs/quickstart", decoder={"steps": 50})`.

        Args:
            run, device: see `TrainedRun`.
            precision, offload: how stages are held in memory, see `modules.placement.settings.Placement`.
            overrides: settings of sampling, by stage.

        Raises:
            InputError: the run lacks a stage, or a stage lacks a setting; the message names it.
        """
        return cls(run, device, overrides, Placement(precision, offload))

    def upsample(
        self, low: Tensor, seeds: ImageSeeds, size: int | None = None, captions: Sequence[str] | None = None
    ) -> Tensor:
        """(B, 3, s, s) in [-1, 1] -> (B, 3, size, size), through as many of the run's upsamplers as that takes.

        Args:
            size: a side that they reach; by default the largest.
            captions: B of them, for upsamplers that read captions.

        Raises:
            InputError: the run has no upsampler, or none that makes pictures of that size.
        """
        if not upsampler_names(self):
            raise InputError(f"no trained stage at {self.run / 'upsampler'}: train it, or keep the decoder's own size")
        return enlarge(self, low, size, seeds, batch_size=len(low), captions=captions)

    def generate(
        self,
        captions: Sequence[str],
        condition: str = DEFAULT,
        seed: int = 0,
        places: Sequence[tuple[int, int]] | None = None,
        images: Tensor | None = None,
        upsample: bool = True,
        size: int | None = None,
        negative: str | Sequence[str] | None = None,
        decoder: str | None = None,
        candidates: int = 1,
    ) -> Tensor:
        """One image for each caption.

        Args:
            captions: B captions; repeat a caption to draw several pictures of it.
            condition: see `embedding`; a condition names the decoder, too.
            seed: of the run.
            places: (caption's position, sample's position) of each image, which with the seed decide its noise; by
                default (k, 0). The same place gives the same picture at any batch size, but for rounding.
            images: (B, 3, H, W) in [-1, 1], for image_embedding.
            upsample: whether the run's upsamplers enlarge the decoder's images.
            size: how far they do, a side that they reach; by default the largest.
            negative: what the pictures are guided away from, a caption for all or B of them.
            decoder: the stage that draws; by default the condition's own.
            candidates: pictures to draw for each image. The one that `ranking_clip` finds nearest to the caption is
                kept (DALL-E 1, section 2.6). They are ranked at the decoder's own size; with 1 nothing is ranked.

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        where = [(k, 0) for k in range(len(captions))] if places is None else list(places)
        if candidates == 1:
            low = self.draw_low(captions, condition, seed, where, images, negative, decoder)
        else:
            best = self.ranked(captions, condition, seed, where, candidates, images, negative, decoder=decoder)
            low, where = best.pictures, best.places
        told = captions if condition_named(condition).caption else None
        return self.upsample(low, ImageSeeds.at(seed, where), size, told) if upsample else low

    def draw_low(
        self,
        captions: Sequence[str],
        condition: str,
        seed: int,
        where: Sequence[Place],
        images: Tensor | None = None,
        negative: str | Sequence[str] | None = None,
        decoder: str | None = None,
    ) -> Tensor:
        """(B, 3, h, w) in [-1, 1]: one image for each caption at the decoder's own size; see `generate`."""
        stage = decoder or condition_named(condition).decoder
        tokens, z_t = self.embed_text(captions) if self.needs_clip(condition, stage) else self.unread(len(captions))
        away = self.negative_captions(negative, len(captions))
        z_i = self.embedding(condition, tokens, z_t, image_generators(seed, where, "prior"), images, away)
        other = image_generators(seed, where, "prior")
        not_this = self.negative_of(condition, away, other)
        tokens = tokens if condition_named(condition).caption else torch.zeros_like(tokens)
        return self.decode(tokens, z_i, image_generators(seed, where, "decoder"), stage, captions, not_this)

    def ranked(
        self,
        captions: Sequence[str],
        condition: str,
        seed: int,
        where: Sequence[Place],
        count: int,
        images: Tensor | None = None,
        negative: str | Sequence[str] | None = None,
        start: Best | None = None,
        decoder: str | None = None,
        at_once: int = 1,
    ) -> Best:
        """The best of `count` candidates for each caption by `ranking_clip`, at the decoder's own size.

        Args:
            captions, condition, seed, images, negative, decoder: see `generate`.
            where: the places of the pictures.
            count: candidates of each.
            start: the best of fewer candidates of these pictures, from which to go on.
            at_once: pictures that may be drawn together; so many candidates of each caption as fit are.

        Raises:
            InputError: no ranking CLIP was given.
        """
        if self.ranking_clip is None:
            raise InputError("choosing among candidates needs a CLIP: set `ranking_clip`, or give --rank-clip")
        score = self.similarity(captions, self.ranking_clip)

        def draw(places: list[Place]) -> Tensor:
            times = len(places) // len(where)
            true = None if images is None else images.repeat(times, 1, 1, 1)
            away = negative if negative is None or isinstance(negative, str) else [*negative] * times
            return self.draw_low([*captions] * times, condition, seed, places, true, away, decoder)

        return best_of(count, where, draw, score, start, max(1, at_once // len(where)))
