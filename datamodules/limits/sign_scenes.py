"""Signs with a word in one of several fonts, and captions that say the word (unCLIP, figure 16): is it spelled right?

A pure function of (split, index). Board, ink, font, size and place are never mentioned.

CLIP's byte pair encoding has one token for a common word, which hides its letters, and parts a rare one into two or
three. The paper suspects that this is why words in pictures are wrong: a model has to have seen each token written out.
So training shows some words often, some rarely and some never, and half of its signs may show made-up words: tokens of
parted words, put together anew. So all tokens of parted words are shown, and no token of a common word that is never
shown; who reads letters meets them in many orders.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from itertools import accumulate, product
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NONE = "-"
LONGEST = 6
_LINES = (Path(__file__).parent / "split_words.txt").read_text(encoding="utf-8").splitlines()
WHOLE = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())
"""Common words of two to six letters, a token of CLIP's byte pair encoding each; written down for this data set."""
PARTED = {word.replace("+", ""): tuple(word.split("+")) for line in _LINES for word in line.split()}
"""Rare words of three to six letters, and the two tokens that they are or, some of five and six letters, three."""
BYTE_PAIRS = dict.fromkeys(WHOLE, 1) | {word: len(parts) for word, parts in PARTED.items()}
"""Word -> how many tokens it is."""
WORDS = tuple(BYTE_PAIRS)
FIRST = tuple(sorted({part for parts in PARTED.values() for part in parts[:-1]}))
LAST = tuple(sorted({parts[-1] for parts in PARTED.values()}))
"""Tokens of parted words, by whether a word can end with them. A made-up word has one or two of the first, and one of
the second."""
_UNSEEN_WHOLE = tuple(word for word in WHOLE[3::8] if word not in LAST)
UNSEEN = (*_UNSEEN_WHOLE, *tuple(PARTED)[1::4])
"""Every eighth of the common words, but for one that is the end of a rare word too; and every fourth of the rare."""
SEEN = tuple(word for word in WORDS if word not in UNSEEN)

OFTEN, SOMETIMES, RARELY, NEVER, MADE_UP = "often", "sometimes", "rarely", "never", "made up"
FREQUENCIES = {OFTEN: 1.0, SOMETIMES: 1 / 8, RARELY: 1 / 64}
"""How often training shows words, relative to each other."""
KINDS = (*FREQUENCIES, NEVER, MADE_UP)
SHOWN = {
    **{
        word: tuple(FREQUENCIES)[place % len(FREQUENCIES)]
        for length in range(2, LONGEST + 1)
        for place, word in enumerate(word for word in SEEN if len(word) == length)
    },
    **dict.fromkeys(UNSEEN, NEVER),
}
"""Word -> how often training shows it; a third of the seen words of each length each."""
RESERVED = 8
"""One of so many made-up words stands on test signs only."""
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSans-BoldOblique.ttf")
"""Of matplotlib, which brings them along."""
BOARDS = ((246, 246, 246), (242, 208, 48), (64, 200, 214), (208, 176, 132))
INKS = ((22, 22, 22), (160, 30, 28), (30, 60, 170), (28, 100, 44))
FINER = 8
"""Signs are drawn this much larger, and shrunk, so that edges are smooth."""
HEIGHT, WIDTH = 0.42, 0.9
"""A word's largest size in frames: of the font's, and of the word's width."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {f"letter_{k + 1}": (NONE, *LETTERS) for k in range(LONGEST)}
"""Columns of `attributes`, with their class names; a reader's classes."""

_SPLITS = {"train": 0, "val": 1, "test": 2, "unrestricted": 4}


class Sign(NamedTuple):
    """What a sign shows: a word, and what no caption says of it."""

    word: str
    font: str
    board: tuple[int, int, int]
    ink: tuple[int, int, int]
    x: float
    y: float
    size: float


def make_sign(split: str, index: int, made_up: float = 0.0) -> Sign:
    """The index-th sign of a split, always the same; lengths of words take turns, so that all are equally frequent.

    Args:
        split: "train" and "val" (words as `FREQUENCIES` says), "test" (the kinds of `KINDS` take turns), and
            "unrestricted" (all words alike, for whoever reads signs and takes no part in making them).
        index: 0 or more.
        made_up: chance of a made-up word; of the test split this is a kind of its own.
    """
    rng = np.random.default_rng((20220416, _SPLITS[split], index))
    length = 2 + index % (LONGEST - 1)
    if split == "test":
        kind = KINDS[index // (LONGEST - 1) % len(KINDS)]
        word = _make_word(rng, length, test=True) if kind == MADE_UP else _choose(rng, _words(length, kind))
    elif rng.random() < made_up:
        word = _make_word(rng, length, test=False)
    elif split == "unrestricted":
        word = _choose(rng, _words(length))
    else:
        word = _by_frequency(rng, length)
    return _lettered(rng, word)


@lru_cache(None)
def _words(length: int, kind: str | None = None) -> tuple[str, ...]:
    return tuple(word for word in WORDS if len(word) == length and kind in (None, SHOWN[word]))


@lru_cache(None)
def _summed(length: int) -> tuple[tuple[str, ...], np.ndarray]:
    words = tuple(word for word in SEEN if len(word) == length)
    return words, np.array(list(accumulate(FREQUENCIES[SHOWN[word]] for word in words)))


def _by_frequency(rng: np.random.Generator, length: int) -> str:
    words, summed = _summed(length)
    return words[int(np.searchsorted(summed, rng.random() * summed[-1], side="right"))]


@lru_cache(None)
def _part_lengths(length: int, parts: int) -> tuple[tuple[tuple[int, ...], ...], np.ndarray]:
    """The lengths that the parts of a made-up word can have, and summed up, how many such words there are of each."""
    found = [
        lengths
        for lengths in product(range(1, length + 1), repeat=parts)
        if sum(lengths) == length and all(_parts(k == parts - 1, size) for k, size in enumerate(lengths))
    ]
    counts = [prod(len(_parts(k == parts - 1, size)) for k, size in enumerate(lengths)) for lengths in found]
    return tuple(found), np.cumsum(counts)


@lru_cache(None)
def _parts(last: bool, length: int) -> tuple[str, ...]:
    return tuple(part for part in (LAST if last else FIRST) if len(part) == length)


def _make_word(rng: np.random.Generator, length: int, *, test: bool) -> str:
    """A made-up word of two or three parts; those of the test split are no others'."""
    while True:
        parts = min(int(rng.integers(2, 4)), length)
        lengths, summed = _part_lengths(length, parts)
        chosen = lengths[int(np.searchsorted(summed, rng.integers(summed[-1]), side="right"))]
        word = "".join(_choose(rng, _parts(k == parts - 1, size)) for k, size in enumerate(chosen))
        if word not in SHOWN and not word.endswith(_UNSEEN_WHOLE) and is_reserved(word) == test:
            return word


def is_reserved(word: str) -> bool:
    """Whether a made-up word is one of those that stand on test signs only."""
    return zlib.crc32(word.encode()) % RESERVED == 0


def is_held_out(word: str) -> bool:
    """Whether no training sign shows a word, be it of `WORDS` or made up."""
    return word in UNSEEN or (word not in SHOWN and is_reserved(word))


def sign_for(word: str, seed: int) -> Sign:
    """Another sign with the same word."""
    return _lettered(np.random.default_rng((20220416, 3, seed)), word)


def caption_of(word: str) -> str:
    """The caption of every sign with this word."""
    return f"a sign that says {word}"


def attributes(word: str) -> np.ndarray:
    """(6,) int64 class of each letter, 0 behind the last one."""
    return np.array([LETTERS.index(c) + 1 for c in word] + [0] * (LONGEST - len(word)), dtype=np.int64)


def render(sign: Sign, size: int) -> np.ndarray:
    """(size, size, 3) uint8 picture of a sign."""
    side = size * FINER
    picture = Image.new("RGB", (side, side), sign.board)
    text, draw = sign.word.upper(), ImageDraw.Draw(picture)
    points = sign.size * HEIGHT * side
    left, _, right, _ = draw.textbbox((0, 0), text, font=_font(sign.font, points), anchor="lm")
    points *= min(1.0, WIDTH * side / (right - left))
    place = (side * (0.5 + sign.x), side * (0.5 + sign.y))
    draw.text(place, text, fill=sign.ink, font=_font(sign.font, points), anchor="mm")
    return np.asarray(picture.reduce(FINER))


@lru_cache(256)
def _font(name: str, points: float) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), points)


def _lettered(rng: np.random.Generator, word: str) -> Sign:
    board, ink = BOARDS[int(rng.integers(len(BOARDS)))], INKS[int(rng.integers(len(INKS)))]
    x, y = rng.uniform(-0.03, 0.03), rng.uniform(-0.12, 0.12)
    return Sign(word, _choose(rng, FONTS), board, ink, float(x), float(y), float(rng.uniform(0.85, 1.0)))


def _choose(rng: np.random.Generator, names: tuple[str, ...] | list[str]) -> str:
    return names[int(rng.integers(len(names)))]
