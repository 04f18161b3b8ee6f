"""Pictures of sample folders and references, read as training reads them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from eval.errors import InputError
from eval.untrusted import MAX_PICTURE, read_bytes
from modules.images.files import PictureError, read_rgb


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
        return read_rgb(io.BytesIO(content), str(name))
    except PictureError as error:
        raise InputError(str(error)) from error
