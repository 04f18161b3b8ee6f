"""The bytes of a picture file to the pixels of a training image: one read, one resize, no needless decoding."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from modules.errors import InputError
from modules.images.files import read_rgb, safe_formats

_SIDED = re.compile(
    r"\b(left|right|(left|right)[ -]?(most|hand|side|ward|wards)|(anti|counter)?-?clockwise|mirrored|"
    r"text|word|words|letter|letters|writing|written|says|saying|reads|reading|spells|logo)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PictureConfig:
    """How a picture becomes a square of the size that training sees. Evaluation and embedding always take the centre,
    and never mirror.

    Attributes:
        crop: which square of a longer picture is taken: the "centre", or in training a "random" one.
        flip: in training, mirror every second picture whose caption allows it. Captions with left, right or writing do
            not, because the mirrored picture would contradict them.
        draft: let a JPEG that is far larger than needed be decoded at a half, a quarter or an eighth (libjpeg's
            scaling of the cosine transform), but at not less than `draft_margin` times the size.
        draft_margin: 1 is fastest; at 2, photographs of 256 px at 64 px differ from fully decoded ones by 46 dB, less
            than bicubic interpolation differs from Lanczos (43 dB; at 1 it is 38 dB).

    Raises:
        InputError: a margin below 1.
    """

    crop: Literal["centre", "random"] = "centre"
    flip: bool = False
    draft: bool = True
    draft_margin: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.draft_margin < math.inf:
            raise InputError(f"picture.draft_margin must be 1 or more, got {self.draft_margin}")

    @property
    def varies(self) -> bool:
        """Whether a pair's picture differs from pass to pass."""
        return self.flip or self.crop == "random"


def decode(
    data: bytes, name: str, size: int, config: PictureConfig, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A picture file's content as pixels.

    It is read by `modules.images.files.read_rgb`; the largest square, at the centre or a random place, is brought to
    `size` by antialiased bicubic interpolation.

    Args:
        data: the file's content, of any of `modules.images.files.FORMATS`, whatever its name ends in.
        name: what errors call it.
        size: side in pixels.
        config: crop and draft; flips are `mirrored`'s.
        rng: draws the place of a random crop; None takes the centre.

    Returns:
        (size, size, 3) uint8.

    Raises:
        InputError: no picture, a damaged one, or one that takes over 2^30 bytes to decode.
    """
    side = round(size * config.draft_margin) if config.draft else None
    rgb = read_rgb(io.BytesIO(data), name, safe_formats(), side)
    box = _square(rgb.width, rgb.height, rng if config.crop == "random" else None)
    if box != (0, 0, size, size) or rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(rgb)


def mirrored(pixels: np.ndarray, caption: str, config: PictureConfig, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3), turned left to right in half of the draws if the configuration and the caption allow it."""
    if config.flip and may_mirror(caption) and rng.random() < 0.5:
        return pixels[:, ::-1]
    return pixels


def may_mirror(caption: str) -> bool:
    """Whether a caption stays true of the mirrored picture: it names neither sides nor writing."""
    return _SIDED.search(caption) is None


def _square(width: int, height: int, rng: np.random.Generator | None) -> tuple[int, int, int, int]:
    side, room = min(width, height), abs(width - height)
    offset = room // 2 if rng is None else int(rng.integers(room + 1))
    left, top = (offset, 0) if width > height else (0, offset)
    return left, top, left + side, top + side
