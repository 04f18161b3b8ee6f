"""The common part of the pages: templates, and pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from eval.errors import InputError
from eval.samples.pictures import PNG, read_picture
from eval.untrusted import require_inside


def png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    out = io.BytesIO()
    image.save(out, format="PNG", **PNG)
    return out.getvalue()


def jpeg(path: Path) -> bytes:
    """A picture file as JPEG, a few times smaller."""
    out = io.BytesIO()
    try:
        read_picture(require_inside(path.parent, path.name), path).save(out, format="JPEG", quality=85)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); sample again") from error
    return out.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """An image as a URI that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def environment() -> Environment:
    """The templates of this folder; values are escaped, and a name that a template lacks is an error."""
    loader = PackageLoader("eval.pages")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
