"""Three channels through which a rendered scene is captioned: alt-text with its faults, short, and descriptive.

DALL-E 3 (Betker et al. 2023, section 2) blames captions: those of the web leave out colours, sizes, counts and places,
name what is not there, and carry words about nothing in the picture. Here such a channel is a function of the scene, so
that what a caption says and what is true of its picture are both known. The form of a caption's truth is that of
`datamodules.rendered.scenes.describe`; what a caption claims has the same form, with None for what it does not say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from datamodules.rendered.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Pair, caption_of, describe
from modules.errors import InputError

SEED = 20231019
CHOICES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "background": BACKGROUNDS, "relation": RELATIONS}
"""Attribute -> its values."""

UNRELATED = ("photo", "stock", "free", "sale", "new", "best", "download", "art")
"""Words of alt-text that belong to no object."""

REVERSED = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class AltText:
    """The rates of the alt-text channel, each from 0 to 1.

    Attributes:
        colour, shape, size, background, relation, count: how often an attribute is said, of each object that is named.
        second: how often the second of two objects is named.
        wrong: how often something that is said is another value than the true one; the count is always true.
        unrelated: how often a caption has one to three words of `UNRELATED`, before or behind the rest.
        full_stop: how often it ends in a full stop.

    Raises:
        InputError: a rate outside 0 to 1.
    """

    colour: float = 0.6
    shape: float = 0.8
    size: float = 0.2
    background: float = 0.2
    relation: float = 0.4
    count: float = 0.3
    second: float = 0.7
    wrong: float = 0.1
    unrelated: float = 0.4
    full_stop: float = 0.2

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise InputError(f"data.init_args.alt_text.{name} is {rate}: a rate is from 0 to 1")


class ChannelCaption(NamedTuple):
    """A caption with what it claims.

    Attributes:
        text: the caption.
        said: what it claims, in the form of `scenes.describe`, None where it says nothing; errors included.
    """

    text: str
    said: dict[str, Any]


def alt_text(pair: Pair, rates: AltText, rng: np.random.Generator) -> ChannelCaption:
    """What a web page says of the scene: little, partly wrong, with words about nothing in it."""
    truth = describe(pair.scene)
    objects, relation = list(truth["objects"]), truth["relation"]
    if len(objects) == 2 and rng.random() < 0.5:  # Either object may be named first.
        objects, relation = objects[::-1], REVERSED[relation]
    if len(objects) == 2 and rng.random() >= rates.second:
        objects, relation = objects[:1], None

    def heard(name: str, value: str) -> str | None:
        if rng.random() >= getattr(rates, name):
            return None
        others = [choice for choice in CHOICES[name] if choice != value]
        return others[int(rng.integers(len(others)))] if rng.random() < rates.wrong else value

    named = [{name: heard(name, thing[name]) for name in ("shape", "colour", "size")} for thing in objects]
    count = 2 if len(objects) == 2 else (1 if truth["count"] == 1 and rng.random() < rates.count else None)
    said = {
        "objects": named,
        "background": heard("background", truth["background"]),
        "relation": None if relation is None else heard("relation", relation),
        "count": count,
    }
    return ChannelCaption(_with_noise(caption_of(said), rates, rng), said)


def _with_noise(text: str, rates: AltText, rng: np.random.Generator) -> str:
    if rng.random() < rates.unrelated:
        words = " ".join(rng.choice(UNRELATED, size=int(rng.integers(1, 4)), replace=False).tolist())
        text = f"{words} {text}" if rng.random() < 0.5 else f"{text} {words}"
    return f"{text}." if rng.random() < rates.full_stop else text


def short(pair: Pair) -> ChannelCaption:
    """The main subject only: colour and shape of the larger object, of two alike the upper or left one."""
    objects = describe(pair.scene)["objects"]
    main = max(objects, key=lambda thing: thing["size"] == "large")
    named = {"shape": main["shape"], "colour": main["colour"], "size": None}
    said: dict[str, Any] = {"objects": [named], "background": None, "relation": None, "count": None}
    return ChannelCaption(caption_of(said), said)


def descriptive(pair: Pair) -> ChannelCaption:
    """Everything that can be named: count, sizes, colours, shapes, how they lie, and the background."""
    said = describe(pair.scene)
    return ChannelCaption(descriptive_text(said), said)


def descriptive_text(said: dict[str, Any]) -> str:
    """The descriptive caption of a description that leaves nothing open."""
    text = caption_of(said)
    return f"two shapes {text}" if said["count"] == 2 else text


CHANNELS = ("caption", "alt_text", "short", "descriptive")
"""What `captions.columns` of shapes may name; "caption" is the data set's own."""


def channel(name: str, rates: AltText) -> Callable[[Pair, str, int], ChannelCaption]:
    """The caption of a pair through a channel, from (pair, split, index): the same whenever it is asked for.

    Raises:
        InputError: there is no such channel.
    """
    if name not in CHANNELS:
        raise InputError(f"captions.columns names {name!r}; shapes have {', '.join(CHANNELS)}")

    def caption(pair: Pair, split: str, index: int) -> ChannelCaption:
        if name == "caption":
            return ChannelCaption(pair.caption, pair.mentioned)
        if name == "short":
            return short(pair)
        if name == "descriptive":
            return descriptive(pair)
        return alt_text(pair, rates, np.random.default_rng((SEED, *split.encode(), index)))

    return caption
