"""Picture files opened with care and made RGB: what both a person's picture and a data set of millions need.

PIL only, so that loader processes and programs that sample can share it.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from modules.errors import InputError
from modules.untrusted.reading import open_regular

MAX_BYTES = 2**30
"""Memory that a picture may take while it is decoded and made RGB; eight loader processes then take 8 GiB at most."""
MAX_FILE = 2**28
"""Bytes of a picture's file."""
BYTES_PER_PIXEL = {"1": 5, "L": 5, "P": 5, "RGB": 4, "YCbCr": 8, "CMYK": 8, "I;16": 9, "I": 12, "F": 4}
"""At the peak, by Pillow's modes: the decoded picture and what it is converted through. RGB is 4 bytes in Pillow."""
BESIDE = {"WEBP": 12, "AVIF": 12, "TIFF": 8}
PROGRESSIVE = 8
"""Further bytes a pixel, of decoders that hold whole pictures of their own: canvases, planes, strips, coefficients."""
TRANSPARENT = 20
"""Bytes a pixel of what is laid over white: the picture, RGBA, the white, both together, RGB."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What a picture may be: Pillow knows others that call programs (EPS), that hold pictures of another size than they say
(ICO), or that nobody means."""

MAX_TEXT = 2**26
"""Bytes of text that a PNG may bring along, which nobody reads: programs write whole workflows there."""

_DECODING = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(ZeroDivisionError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for damaged files, by its formats' readers."""

ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> how the stored pixels are turned upright."""
_QUARTERS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_limit_lock = threading.Lock()
_before: list[tuple[int | None, int]] = []
"""Pillow's own limits, while a picture is decoded."""
_decoding: list[None] = []
"""One for each picture that is being decoded."""


class PictureError(InputError):
    """A picture that cannot be used.

    Attributes:
        kind: why, in words that are the same for all such pictures.
        detail: what else is known, or "".
    """

    def __init__(self, message: str, kind: str, detail: str = "") -> None:
        super().__init__(message)
        self.kind, self.detail = kind, detail


@contextmanager
def opened(source: Path | BinaryIO, name: str, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """An open picture, not decoded yet; what goes wrong in the block while decoding is told in one line too.

    Args:
        source: a file or its content.
        name: what the lines call it.
        formats: Pillow's names of the formats that it may have, by default `FORMATS`.

    Raises:
        PictureError: empty, truncated, damaged or no picture; no pixels, or too many by its header; a FIFO.
        InputError: a file that is missing or may not be read.
    """
    try:
        with _as_file(source, name) as file, _own_limit(), Image.open(file, formats=formats or safe_formats()) as image:
            check_size(image, name)
            yield image
    except UnidentifiedImageError:
        raise PictureError(
            f"{name} is no picture that can be read (empty, damaged, or none of {', '.join(safe_formats())})",
            "no readable picture",
        ) from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{name}: {error.strerror}; name a picture file") from None
    except _DECODING as error:
        if isinstance(error, InputError):
            raise
        detail = " ".join(str(error).split())
        message = f"{name} cannot be decoded ({detail}): truncated or damaged"
        raise PictureError(message, "a damaged picture", detail) from None


@contextmanager
def _as_file(source: Path | BinaryIO, name: str) -> Iterator[BinaryIO]:
    """A path as an open regular file, or what is open already."""
    if not isinstance(source, Path):
        yield source
        return
    with open_picture(source, name) as file:
        yield file


def open_picture(path: str | Path, name: str) -> BinaryIO:
    """A picture's file, opened: a regular one, and not larger than any picture's.

    Raises:
        PictureError: a FIFO or a device, which would never end, or over 2^28 bytes.
        OSError: it is missing, or may not be read.
    """
    try:
        file = open_regular(path)
    except InputError as error:
        raise PictureError(f"{name}: {error}", "a file that is no regular file") from None
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE:
        file.close()
        message = f"{name} has {size:,} bytes, over the limit of 2^28: make it smaller first"
        raise PictureError(message, "a file that is too large", f"{size:,} bytes")
    return file


def read_rgb(
    source: Path | BinaryIO, name: str, formats: tuple[str, ...] | None = None, side: int | None = None
) -> Image.Image:
    """The one reader of picture files: training, sampling, references and evaluation see the same pixels.

    EXIF's orientation is applied; every mode becomes RGB (see `as_rgb`); of an animation the first frame counts.

    Args:
        source: a file or its content.
        name: what errors call it.
        formats: Pillow's names of the formats that it may have, by default `FORMATS`.
        side: let a JPEG that is far larger be decoded at a half, a quarter or an eighth, with sides of at least so many
            pixels; None decodes it whole.

    Raises:
        PictureError: see `opened` and `as_rgb`.
        InputError: a file that is missing or may not be read.
    """
    with opened(source, name, formats) as image:
        if side is not None and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (side, side))
        rgb = as_rgb(upright(image), name)
        rgb.load()
        return rgb


def upright(image: Image.Image) -> Image.Image:
    """The picture as EXIF's orientation has it.

    Of EXIF nothing else is read, and nothing written, so that odd tags do no harm; if it cannot be read at all, the
    picture is taken as it is stored.
    """
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def lies(image: Image.Image) -> bool:
    """Whether `upright` turns the picture by a quarter, so that its width becomes its height."""
    return _turn(image) in _QUARTERS


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Image.DecompressionBombError:
        raise
    except _DECODING:
        return None


@lru_cache(maxsize=1)
def safe_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that the installed Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode as RGB: transparency is laid over white; greyscale (8 or 16 bits), palettes and CMYK are converted.

    Raises:
        PictureError: a mode whose range of values is unknown.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BITS or image.mode == "I":
        return _grey(np.asarray(image), name)
    if image.mode == "F":
        message = f"{name} holds floating-point values, whose range is not known: save it with 8 bits a channel"
        raise PictureError(message, "a picture of floating-point values")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _own_limit() -> Iterator[None]:
    """Pillow warns and refuses at other numbers of pixels and of text than ours, by globals; see `check_size`."""
    with _limit_lock:
        if not _before:  # Threads decode side by side: the first sets the limits, the last puts them back.
            _before.append((Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK))
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, MAX_TEXT
        _decoding.append(None)
    try:
        yield
    finally:
        with _limit_lock:
            _decoding.pop()
            if not _decoding:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _before.pop()


def check_size(image: Image.Image, name: str) -> None:
    """Refuses, by the header, what would fill the memory.

    Raises:
        PictureError: no pixels, or so many that decoding takes over 2^30 bytes.
    """
    pixels = max(image.width * image.height, _tile(image))
    mode = "I;16" if image.mode in _SIXTEEN_BITS else image.mode
    each = TRANSPARENT if "transparency" in image.info else BYTES_PER_PIXEL.get(mode, TRANSPARENT)
    each += PROGRESSIVE if "progressive" in image.info else BESIDE.get(image.format or "", 0)
    if pixels * each > MAX_BYTES:
        size = f"{image.width} x {image.height}"
        most = MAX_BYTES // each
        limit = f"2^{most.bit_length() - 1}" if most & (most - 1) == 0 else f"{most:,}"
        message = f"{name} has {size} pixels, over the limit of {limit} for {image.mode}: make it smaller first"
        raise PictureError(message, "a picture of too many pixels", size)
    if not pixels:
        raise PictureError(f"{name} has no pixels", "a picture without pixels")


def _tile(image: Image.Image) -> int:
    """Pixels of a tile of a TIFF, which may be larger than the picture and is decoded whole; 0 for others."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322, 0), tags.get(323, 0)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def _grey(values: np.ndarray, name: str) -> Image.Image:
    """16-bit greyscale, also where Pillow opened it as 32 bits."""
    if values.min() < 0 or values.max() > 65535:
        message = f"{name} holds values outside 0 to 65535: save it with 8 or 16 bits a channel"
        raise PictureError(message, "a picture of unknown range")
    grey = np.empty(values.shape, np.uint8)
    for rows in range(0, len(values), 256):  # A few rows at a time: whole, it would take several times the picture.
        grey[rows : rows + 256] = (values[rows : rows + 256].astype(np.int64) + 128) // 257
    return Image.fromarray(grey).convert("RGB")
