"""Signs with a word in one of several fonts, and captions that say the word (unCLIP, figure 16): is it spelled right?

A pure function of (split, index). Board, ink, font, size and place are never mentioned. Some words stand on no training
or validation sign, and on half of the test signs: these can be spelled only by whoever reads letters.

CLIP's byte pair encoding has one token for a common word, which hides its letters, and parts a rare one into two or
three. The paper suspects that this is why words in pictures are wrong, so that there are words of each kind here.
"""

from __future__ import annotations

from functools import lru_cache
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
PARTED = {word: int(line.split()[0]) for line in _LINES for word in line.split()[1:]}
"""Rare words of three to six letters, and how many of these tokens they are: 2 or, of five and six letters, 3."""
BYTE_PAIRS = dict.fromkeys(WHOLE, 1) | PARTED
WORDS = tuple(BYTE_PAIRS)
UNSEEN = (*WHOLE[3::8], *tuple(PARTED)[1::4])
"""An eighth of the common words and a fourth of the rare ones."""
SEEN = tuple(word for word in WORDS if word not in UNSEEN)
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


def make_sign(split: str, index: int) -> Sign:
    """The index-th sign of a split, always the same; lengths of words take turns, so that all are equally frequent.

    Splits: "train" and "val" (no unseen word), "test" (every second sign has one), and "unrestricted" (all words alike,
    for whoever reads signs and takes no part in making them).
    """
    rng = np.random.default_rng((20220416, _SPLITS[split], index))
    length = 2 + index % (LONGEST - 1)
    unseen = split == "test" and (index // (LONGEST - 1)) % 2 == 1
    words = WORDS if split == "unrestricted" else UNSEEN if unseen else SEEN
    return _lettered(rng, _choose(rng, [word for word in words if len(word) == length]))


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
