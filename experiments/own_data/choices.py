"""The choices of `unclip new` for a data set, with their reasons.

The rules are those by which `experiments/emoji` and `experiments/drawings` were set by hand. They are a start that
trains, not an optimum; every choice is a line in the YAMLs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from experiments.own_data.survey import Survey
from modules.clip.folder import check_config, clip_folder
from modules.errors import InputError
from modules.shipped import PREFIX

BPE_TOKENS, BPE_CONTEXT = 49_408, 77
MOST_WORDS, MOST_CONTEXT = 4_096, 48
"""The most words of a vocabulary that is made of the data's own words, and the most words of a caption then."""

UNREAD = 0.1
"""If a larger share of the test captions has an unknown word, CLIP's 49,408 byte pairs are taken."""

SECONDS_PER_STEP = {32: 0.26, 64: 0.52, 128: 1.0}
"""Rough seconds of a decoder's step of 32 pictures on one CPU core, from the emoji and drawings suites."""


@dataclass(frozen=True)
class Pretrained:
    """A CLIP that is not trained here.

    Attributes:
        name: of an open_clip model, or a folder.
        weights: a file, or open_clip's tag; None for a folder.
        width: D of its embeddings.
        context: tokens of a caption.
        tokens: how many different ones there are.
    """

    name: str
    weights: str | None
    width: int
    context: int
    tokens: int


@dataclass(frozen=True)
class Words:
    """How captions become tokens."""

    tokenizer: str
    vocab_size: int
    context_length: int


@dataclass(frozen=True)
class Sizes:
    """Sides of pictures in pixels, and batch sizes.

    Attributes:
        decoder: side of the decoder's pictures.
        final: side of the upsampler's; that of the decoder's if there is no upsampler.
        clip_batch, batch: pairs a step, of CLIP and of the decoder.
        width: D, of the embeddings.
    """

    decoder: int
    final: int
    clip_batch: int
    batch: int
    width: int

    @property
    def factor(self) -> int:
        """The upsampler's factor; 1 is no upsampler."""
        return self.final // self.decoder


@dataclass(frozen=True)
class Choices:
    """All of them.

    Attributes:
        steps: stage -> optimiser steps.
        reasons: what was chosen -> why, for the terminal and the YAMLs.
    """

    words: Words
    sizes: Sizes
    steps: dict[str, int]
    dropout: float
    whiten: bool
    reasons: dict[str, str]


def choose(survey: Survey, size: int | None = None, pretrained: Pretrained | None = None) -> Choices:
    """Settings that fit a data set.

    Raises:
        InputError: `size` is larger than the pictures.
    """
    train = survey.sizes["train"]
    reasons: dict[str, str] = {}
    words = _words(survey, pretrained, reasons)
    sizes = _sizes(survey, size, pretrained, reasons)
    steps = _steps(train, sizes, reasons)
    dropout = 0.1 if train < 20_000 else 0.0
    reasons["dropout"] = f"{dropout:g} in the priors, for {train:,} training pairs"
    whiten = train >= 8 * sizes.width
    reasons["whitening"] = (
        f"z_i is {'' if whiten else 'not '}whitened in the decoder: estimating the covariance of {sizes.width} numbers "
        f"takes {8 * sizes.width:,} pairs or more, and there are {train:,}"
    )
    return Choices(words, sizes, steps, dropout, whiten, reasons)


def _words(survey: Survey, pretrained: Pretrained | None, reasons: dict[str, str]) -> Words:
    if pretrained is not None:
        reasons["words"] = f"the tokens of {pretrained.name}, {pretrained.context} for each caption"
        return Words("pretrained", pretrained.tokens, pretrained.context)
    context = 4 * math.ceil((survey.longest + 1) / 4)
    if survey.words <= MOST_WORDS and context <= MOST_CONTEXT and survey.unread <= UNREAD:
        size = 64 * math.ceil((survey.words + 3) / 64)
        reasons["words"] = (
            f"the vocabulary is the {survey.words:,} words of the training captions; {survey.unread:.0%} of the test "
            f"captions have a word that is not in it; the longest caption has {survey.longest} words"
        )
        return Words("words", size, context)
    reasons["words"] = (
        f"CLIP's byte pairs, because the training captions have {survey.words:,} words, {survey.unread:.0%} of the "
        f"test captions have another word, and the longest caption has {survey.longest} words"
    )
    return Words("bpe", BPE_TOKENS, BPE_CONTEXT)


def _sizes(survey: Survey, size: int | None, pretrained: Pretrained | None, reasons: dict[str, str]) -> Sizes:
    side = survey.side
    decoder = size or (64 if side >= 64 else 32)
    if decoder > side:
        raise InputError(f"--size {decoder}, but half of the pictures have {side} pixels or fewer at the shorter side")
    factor = next((factor for factor in ((4, 2) if decoder == 32 else (2,)) if decoder * factor <= side), 1)
    enlarged = f"an upsampler draws {decoder * factor} px" if factor > 1 else "this is too small for an upsampler"
    reasons["pictures"] = (
        f"the decoder draws {decoder} px; the median of the pictures' shorter sides is {side} px: {enlarged}"
        + ("" if decoder <= survey.smallest else f"; some have only {survey.smallest} px and are enlarged")
    )
    train = survey.sizes["train"]
    clip_batch = min(128, 2 ** int(math.log2(max(8, train / 4))))
    width = pretrained.width if pretrained is not None else 128 if train >= 1_000 else 64
    reasons["embeddings"] = f"{width} numbers" + (
        " (the pretrained CLIP's)" if pretrained else f", for {train:,} pairs"
    )
    reasons["batches"] = f"CLIP's batch is {clip_batch} pairs, at most a quarter of the training split"
    return Sizes(decoder, decoder * factor, clip_batch, 32, width)


def _steps(train: int, sizes: Sizes, reasons: dict[str, str]) -> dict[str, int]:
    """Passes over the data as in the emoji and drawings suites, within bounds."""

    def passes(count: float, batch: int, least: int, most: int) -> int:
        return int(round(min(max(count * train / batch, least), most), -2))

    long = sizes.decoder > 32
    decoder = passes(24, sizes.batch, 1_500, 6_000 if long else 3_000)
    steps = {
        "clip": passes(32, sizes.clip_batch, 600, 3_000),
        "decoder": decoder,
        "glide": int(round(decoder * 2 / 3, -2)),
        "upsampler": 1_500 if long else 900,
        "linear_prior": 1_000,
        "ar_prior": passes(16, 64, 800, 3_000),
        "diffusion_prior": passes(32, 64, 1_200, 6_000),
        "eval_clip": passes(20, sizes.clip_batch, 450, 2_000),
    }
    minutes = decoder * SECONDS_PER_STEP[sizes.decoder] / 60
    reasons["steps"] = (
        f"{decoder:,} for the decoder ({decoder * sizes.batch / train:.0f} passes over the data), {steps['clip']:,} "
        f"for CLIP ({steps['clip'] * sizes.clip_batch / train:.0f} passes); on one CPU core the decoder takes about "
        f"{minutes:.0f} minutes"
    )
    return steps


def parsed_clip(text: str) -> tuple[str, str | None]:
    """MODEL:WEIGHTS of --clip, or a folder, or shipped:NAME.

    Raises:
        InputError: none of them.
    """
    if text.startswith(PREFIX):
        check_config(Path(clip_folder(text)))
        return text, None
    if Path(text).is_dir():
        return str(Path(text).resolve()), None
    name, colon, weights = text.partition(":")
    if not colon or not name or not weights:
        raise InputError(f"--clip {text}: write MODEL:WEIGHTS, as in ViT-B-32:FILE, or name a CLIP folder")
    file = Path(weights).expanduser()
    return name, str(file.resolve()) if file.exists() else weights


def pretrained_clip(text: str) -> Pretrained:
    """The CLIP of --clip, opened.

    Raises:
        InputError: there is no such CLIP.
    """
    from modules.clip.frozen import FrozenCLIP

    name, weights = parsed_clip(text)
    clip = FrozenCLIP(name, weights)
    tokens = clip.tokenize(["a"])
    return Pretrained(name, weights, clip.embedding_dim, tokens.shape[1], clip.vocab_size)
