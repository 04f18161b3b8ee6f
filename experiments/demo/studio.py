"""The drawing functions of the demo, without the page: plain functions of captions, pictures and numbers."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from eval.samples.manifest import read_manifest
from eval.samples.pictures import PNG
from modules.clip.word_tokenizer import WordTokenizer
from modules.conditions import CONDITIONS, DEFAULT, sampled
from modules.errors import InputError
from modules.images.tensors import Pictures, load_image
from modules.manipulations import EDIT_STEPS, Latents, Walk, enlarge, fresh_noise, redraw, tokens_of
from modules.manipulations.components import Components, components_of, components_of_whitening
from modules.networks.embedding_pathway import Whitening
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

Shown = list[tuple[Image.Image, str]]
"""Pictures, each with what it is."""

Report = Callable[[float, str], Any]
"""Told how much is done, from 0 to 1, and what is next."""

SHIPPED_CAPTIONS = (
    "red heart in the Noto style",
    "full moon in the OpenMoji style",
    "grinning face in the Twitter style",
    "strawberry in the Fluent Flat style",
    "a large red circle",
    "a small blue square on a white background",
    "a green cross",
    "a large yellow triangle",
    "a small red circle above a large blue square",
)
"""Captions of the weights that come with the package; those that a run knows are its examples."""
MOST_SEEDS = 6


def nothing(done: float, what: str) -> None:
    """No report."""


@dataclass(frozen=True)
class Drawing:
    """How pictures of captions are drawn.

    Attributes:
        conditions: names of `modules.conditions`, a row each.
        seed: of the first picture; the others have the seeds after it.
        count: pictures of each condition.
        decoder: sampler settings of the decoder, such as {"steps": 4}.
        prior: sampler settings of the diffusion prior, such as {"candidates": 2}.
    """

    conditions: Sequence[str]
    seed: int = 0
    count: int = 4
    decoder: dict[str, object] | None = None
    prior: dict[str, object] | None = None

    @property
    def seeds(self) -> list[int]:
        """One for each picture of a condition."""
        return [self.seed + k for k in range(self.count)]


class Studio:
    """A run's models, and what the demo draws with them.

    Args:
        system: the run.
        name: what the page calls it.
    """

    def __init__(self, system: UnCLIP, name: str) -> None:
        self.system, self.name = system, name

    @classmethod
    def open(cls, run: str, device: torch.device | str = "cpu") -> Studio:
        """The studio of a run.

        Raises:
            InputError: no such run, or it has no decoder.
        """
        system = UnCLIP.from_run(run, device)
        system.decoder()
        return cls(system, run)

    @cached_property
    def conditions(self) -> list[str]:
        """Conditions that the run has the stages for, of those that need no picture."""
        found = [name for name in sampled() if CONDITIONS[name].z_i != "image"]
        return [name for name in found if all(self.system.has(stage) for stage in CONDITIONS[name].stages)]

    @cached_property
    def prior(self) -> str:
        """The condition that edits take captions through: the diffusion prior, or the best that the run has."""
        if DEFAULT in self.conditions:
            return DEFAULT
        priors = [name for name in self.conditions if CONDITIONS[name].z_i == "prior"]
        return priors[0] if priors else "text_embedding"

    @cached_property
    def captions(self) -> list[str]:
        """Captions to begin with: the run's own test captions, or those of the shipped weights that it knows.

        Raises:
            InputError: the manifest of the run's test pictures is damaged.
        """
        manifest = self.system.run / "samples" / "real" / "manifest.jsonl"
        if manifest.is_file():
            return list(dict.fromkeys(record["caption"] for record in read_manifest(manifest)[:64]))[:6]
        return [text for text in SHIPPED_CAPTIONS if not self.unknown(text)] or ["a picture"]

    @cached_property
    def examples(self) -> list[Image.Image]:
        """Two pictures or more to begin with: drawn by the run for its first captions."""
        texts = (self.captions * 2)[:4]
        return list(self.system.text_to_image(texts, seed=0, condition=self.prior))

    @cached_property
    def components(self) -> Components | None:
        """Principal components of z_i: of the run's embeddings, or of the decoder's whitening; None without both."""
        folder = self.system.run / "embeddings"
        if folder.is_dir():
            from datamodules.embeddings.folder import open_embeddings

            rows = open_embeddings(folder).rows("train")
            return components_of(rows[list(range(min(len(rows), 20_000)))].z_i)
        parts = [part for part in self.system.decoder().network.modules() if isinstance(part, Whitening)]
        return components_of_whitening(parts[0]) if parts else None

    def unknown(self, text: str) -> list[str]:
        """The words of a caption that the run's CLIP has never read."""
        tokenize = self.system.clip.tokenize
        return tokenize.unknown(text) if isinstance(tokenize, WordTokenizer) else []

    @contextmanager
    def overridden(self, drawing: Drawing) -> Iterator[None]:
        """The system, sampled as a drawing says."""
        before = self.system.overrides
        stages = {"decoder": drawing.decoder, "glide": drawing.decoder, "diffusion_prior": drawing.prior}
        chosen = {name: settings for name, settings in stages.items() if settings and self.system.has(name)}
        self.system.overrides = {**before, **chosen}
        try:
            yield
        finally:
            self.system.overrides = before

    def text_to_pictures(self, caption: str, drawing: Drawing, report: Report = nothing) -> Shown:
        """The caption under several conditions, with the same noise in all of them."""
        if not caption.strip():
            raise InputError("the caption is empty: say what to draw")
        if not drawing.conditions:
            raise InputError("no condition is chosen: tick one")
        shown: Shown = []
        with self.overridden(drawing):
            for k, name in enumerate(drawing.conditions):
                report(k / len(drawing.conditions), CONDITIONS[name].label)
                pictures = self.system.text_to_image(caption, seed=drawing.seeds, condition=name)
                shown += [
                    (p, f"{CONDITIONS[name].label}, seed {s}") for p, s in zip(pictures, drawing.seeds, strict=True)
                ]
        return shown

    def variations(
        self, image: Image.Image | None, etas: Sequence[float], seeds: Sequence[int], report: Report = nothing
    ) -> Shown:
        """A picture along its own trajectory with growing eta, and then from fresh noise, where z_i alone is kept."""
        picture = given(image)
        report(0.0, "inverting the picture")
        latents = self.system.invert(picture, walk=Walk(steps=25))
        shown: Shown = []
        for k, eta in enumerate(etas):
            report((k + 1) / (len(etas) + 2), f"eta {eta:g}")
            shown.append((self.system.image_variations(latents, eta=eta, seed=seeds[0])[0], f"eta {eta:g}"))
        report((len(etas) + 1) / (len(etas) + 2), "fresh noise")
        fresh = self.system.image_variations(picture, seed=list(seeds))
        return shown + [(p, f"fresh noise, seed {s}") for p, s in zip(fresh, seeds, strict=True)]

    def between_pictures(
        self,
        first: Image.Image | None,
        second: Image.Image | None,
        count: int,
        fresh: int | None,
        report: Report = nothing,
    ) -> Shown:
        """Pictures on the way from one to another; `fresh` is the seed of one shared noise, None blends their own."""
        pair = [given(first, "the first picture"), given(second, "the second picture")]
        report(0.0, "inverting both pictures")
        latents = self.system.invert(pair, walk=Walk(steps=25))
        report(0.5, "drawing the way between them")
        return along(self.system.interpolate(latents, count, noise_seed=fresh))

    def between_captions(self, captions: Sequence[str], count: int, seed: int) -> Shown:
        """Pictures on the way from one caption to another, by the prior's z_i."""
        if any(not text.strip() for text in captions):
            raise InputError("a caption is empty: say what stands at each end")
        return along(self.system.interpolate_captions(captions, count, seed=seed, prior=self.prior, walk=Walk(25)))

    def text_diff(
        self, image: Image.Image | None, base: str, target: str, most: float, report: Report = nothing
    ) -> Shown:
        """A picture moved from what the base says towards what the target says, in five steps up to theta `most`."""
        picture = given(image)
        if not target.strip():
            raise InputError("the target is empty: say what the picture is to be")
        report(0.0, "inverting the picture")
        latents = self.system.invert(picture, walk=Walk(EDIT_STEPS))
        report(0.5, "turning z_i")
        thetas = [most * k / 4 for k in range(5)]
        drawn = self.system.text_diff(latents, target, base.strip() or None, theta=thetas)
        return [(p, f"theta {theta:.2f}") for p, theta in zip(drawn, thetas, strict=True)]

    def inpaint(
        self, image: Image.Image | None, mask: Image.Image | None, caption: str, seeds: Sequence[int], resamples: int
    ) -> Shown:
        """The white part of the mask drawn anew."""
        picture = given(image)
        if mask is None or mask.getextrema()[1] == 0:
            raise InputError("nothing is painted: paint over what is to be drawn anew")
        drawn = self.system.inpaint(
            picture,
            mask,
            caption.strip() or None,
            seed=list(seeds),
            prior=self.prior,
            walk=Walk(12, 1.5),
            resamples=resamples,
        )
        return [(p, f"seed {s}") for p, s in zip(drawn, seeds, strict=True)]

    def moved(self, image: Image.Image | None, shifts: Sequence[float], seed: int) -> Shown:
        """A picture's z_i moved along its first principal components, in standard deviations; beside it unmoved."""
        if self.components is None:
            raise InputError(f"{self.name} has neither embeddings nor a whitened decoder: its components are not known")
        picture = load_image(given(image))[None].to(self.system.device)
        z_i = self.system.embed_image(picture)
        there = self.components.moved(z_i.cpu(), torch.tensor([list(shifts)]), self.system.raw).to(z_i)
        tokens, noise = tokens_of(self.system, None, 2), fresh_noise(self.system, ImageSeeds.of([seed], 1))
        latents = Latents(torch.cat([z_i, there]), noise.expand(2, -1, -1, -1), tokens)
        low = redraw(self.system, latents, Walk(16))
        drawn = Pictures(enlarge(self.system, low, None, ImageSeeds.of([seed, seed], 2)))
        return [(drawn[0], "z_i as it is"), (drawn[1], "z_i moved")]


def given(image: Image.Image | None, what: str = "the picture") -> Image.Image:
    """A picture that is there.

    Raises:
        InputError: it is not.
    """
    if image is None:
        raise InputError(f"{what} is missing: drop a file, or take an example")
    return image


def along(pictures: Sequence[Image.Image]) -> Shown:
    """Pictures of a way, with how far each has gone."""
    return [(picture, f"{k / (len(pictures) - 1):.2f}") for k, picture in enumerate(pictures)]


@cache
def downloads() -> tempfile.TemporaryDirectory[str]:
    """Where archives are made; the folder goes when the program ends."""
    return tempfile.TemporaryDirectory(prefix="unclip-demo-", ignore_cleanup_errors=True)


def archive(shown: Shown, how: dict[str, object]) -> str:
    """A zip file of the pictures and of how they were drawn; returns its path, in `downloads`.

    The page hands out a copy of its own, so that the next archive takes its place.
    """
    path = Path(downloads().name) / "pictures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for k, (picture, _) in enumerate(shown):
            with file.open(f"{k:02d}.png", "w") as entry:
                picture.save(entry, "png", **PNG)
        titles = {f"{k:02d}.png": title for k, (_, title) in enumerate(shown)}
        file.writestr("how.json", json.dumps({**how, "pictures": titles}, indent=1, ensure_ascii=False))
    return str(path)
