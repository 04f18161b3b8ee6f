"""Pictures of sample folders and references, read as training reads them, and the one rule for pictures of any size."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from eval.errors import InputError
from eval.untrusted import MAX_PICTURE, read_bytes
from modules.images.files import PictureError, lies, opened, read_rgb, safe_formats

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
"""Ends of the names of picture files; what a file holds decides its format."""

FIT = "short side to {size} px (Pillow bicubic, antialiased), then the centre"
"""The rule of `fitted`, for protocols."""

PNG: dict[str, Any] = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Pillow's settings for pictures written as PNG: deflate looks for runs only.

Drawn pictures, which have faint noise, take a quarter of the time and as many bytes as with Pillow's own settings.
Flat ones take half the time and a few percent more bytes; a page of flat ones up to a half more.
Pillow's `optimize` takes 6 to 35 times as long as these settings. It makes flat pages a third smaller, and drawn
pictures no smaller. So pages that are sent, such as ballots, have these settings too.
"""


def read_picture(source: Path | bytes, name: Path) -> Image.Image:
    """A picture as RGB, by the one reader of pictures.

    Args:
        source: a file or its content.
        name: the file, for errors.

    Raises:
        InputError: it cannot be decoded.
        OSError: it is missing, or may not be read.
    """
    try:
        content = source if isinstance(source, bytes) else read_bytes(source, MAX_PICTURE)
        return read_rgb(io.BytesIO(content), str(name), safe_formats())
    except PictureError as error:
        raise InputError(str(error)) from error


def picture_size(content: bytes, name: Path) -> tuple[int, int]:
    """(height, width) of a picture file, upright as EXIF has it, by its header.

    Raises:
        InputError: no picture, or one of too many pixels.
    """
    try:
        with opened(io.BytesIO(content), str(name), safe_formats()) as image:
            wide, high = image.size
            return (wide, high) if lies(image) else (high, wide)
    except PictureError as error:
        raise InputError(str(error)) from error


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """A picture brought to (size, size): its short side to `size` (bicubic, antialiased), then the centre.

    A smaller picture is enlarged: which pictures count does not depend on their size.
    """
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return resized.crop((left, top, left + size, top + size))
