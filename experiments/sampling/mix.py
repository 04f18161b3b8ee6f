"""`unclip mix`: pictures of several pictures and captions at once, each with a weight, as a sample folder."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from experiments.console.errors import say
from experiments.sampling.captions import Request
from experiments.sampling.jobs import Job
from experiments.sampling.request import check_counts, drawn, provenance, started
from modules.clip.frozen import warn_unknown_words
from modules.images.tensors import load_images, to_uint8
from modules.manipulations import Mix, draw_mix, enlarge
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds


@dataclass(frozen=True)
class MixJob(Job):
    """The pictures of a mix: picture k is sample k.

    Attributes:
        mix: what is mixed.
        caption: that the decoder is given.
    """

    mix: Mix = field(default_factory=lambda: Mix(None, ("",), (1.0,)))
    caption: str | None = None

    @property
    def label(self) -> str:
        return "mixing"

    def draw(self, system: UnCLIP, numbers: list[int]) -> Tensor:
        seeds = ImageSeeds.at(self.seed, [(0, k) for k in numbers])
        low = draw_mix(system, self.mix, seeds, self.caption, self.negative, self.condition)
        return to_uint8(enlarge(system, low, self.size, seeds) if self.upsample else low)


def run(options: argparse.Namespace) -> int:
    """Run `unclip mix`; returns the exit code. The processes that a strategy starts come through here, too."""
    check_counts(options)
    images = load_images(options.images) if options.images else None
    weights = options.weights or [1.0] * (len(options.images) + len(options.captions))
    mix = Mix(images, tuple(options.captions), tuple(weights))  # Refused before anything of the run is read.
    options.condition = mix.condition(options.condition)
    session = started(options)
    texts = [text for text in (*options.captions, options.caption, options.negative) if text]
    if options.negative:
        session.system.check_negative(options.condition)
    session.system.clip.tokenize(texts)
    named = [*(Path(path).stem for path in options.images), *options.captions]
    label = ", ".join(f"{weight:g} {name}" for weight, name in zip(weights, named, strict=True))
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in options.images]
    made_of = {"weights of the mix": weights, "mixed captions": options.captions, "mixed pictures": digests}
    shared = {**provenance(session.system, options), **made_of, "caption of the decoder": options.caption}
    request = Request(options.caption or label, 0, {})
    job = MixJob([request], options.n, options.condition, options.seed, options.upsample, shared, size=options.size)
    if session.first:
        warn_unknown_words(session.system.clip.tokenize, texts)
    folder = drawn(session, options, replace(job, negative=options.negative, mix=mix, caption=options.caption))
    if folder is not None:
        say(f"{folder.path}: {len(job)} pictures of {label}")
    return 0
