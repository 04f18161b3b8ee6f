"""Sets of drawings as Iconify packs them for npm: which drawings there are, what they are called, how they look.

A package is the .tgz that `npm pack @iconify-json/NAME` leaves, or the folder that it unpacks to. It holds icons.json
(SVG bodies by name), info.json (the set's name, author and licence) and, for emoji, chars.json (code points -> name).
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from datamodules.rendered.svg import render_untrusted
from modules.errors import InputError
from modules.untrusted.reading import open_regular, printable, read_bytes

FILE_PREFIX = "iconify-json-"
LARGEST = 256 * 2**20
"""Bytes of the largest file of a package that is read."""
UNPACKED = 2 * LARGEST
"""Bytes of a whole package."""


@dataclass(frozen=True)
class Icon:
    """One drawing.

    Attributes:
        name: "bridge-at-night".
        body: what is inside of the SVG.
        box: (left, top, width, height) of its view.
        points: code points where it is an emoji, else empty.
    """

    name: str
    body: str
    box: tuple[float, float, float, float]
    points: tuple[int, ...]

    def svg(self) -> str:
        """The drawing centred in a square."""
        left, top, width, height = self.box
        side = max(width, height)
        view = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
        links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {links} viewBox="{view}">{self.body}</svg>'


@dataclass(frozen=True)
class IconSet:
    """A set of drawings in one style.

    Attributes:
        prefix: "noto".
        title: "Noto Emoji".
        version: of the package.
        author: who drew them.
        licence: its title, with its address where that is known.
        icons: those that are shown, in the package's order; aliases are left out.
    """

    prefix: str
    title: str
    version: str
    author: str
    licence: str
    icons: tuple[Icon, ...]

    @property
    def style(self) -> str:
        """The name of the style in captions: the title without brackets, and without "Emoji" unless that is first."""
        first, *others = self.title.replace("(", "").replace(")", "").split() or [""]
        return " ".join([first, *(word for word in others if word.lower() not in ("emoji", "emojis"))]) or self.title

    @property
    def attribution(self) -> str:
        """The attribution to show: "Noto Emoji by Google Inc (Apache 2.0, https://...)"."""
        return f"{self.title} by {self.author} ({self.licence})"


def packages(folder: Path) -> list[Path]:
    """The packages in a folder, by name: .tgz files, and folders that hold an icons.json.

    Raises:
        InputError: there are none.
    """
    found = sorted(folder.glob(f"{FILE_PREFIX}*.tgz")) + sorted(path.parent for path in folder.glob("*/icons.json"))
    found += [folder] if (folder / "icons.json").exists() else []
    if not found:
        raise InputError(
            f"{folder}: no Iconify packages there (iconify-json-noto-1.2.3.tgz, or folders with icons.json); "
            f"`unclip data download-emoji --out {folder}` gets four sets, with --sets NAME ... others"
        )
    return found


def read_set(path: str | Path) -> IconSet:
    """Reads a package; a second time in the same process it is there already.

    Raises:
        InputError: a file that is missing, damaged, or no such package; the line names it.
    """
    path = Path(path).expanduser()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; `unclip data download-emoji` gets such packages") from error
    return _read_set(path, stamp)


def render(icon: Icon, size: int) -> np.ndarray:
    """(size, size, 3) uint8 picture of a drawing on white.

    Raises:
        InputError: the renderer is missing, or can make nothing of the drawing.
    """
    try:
        return render_untrusted(icon.svg(), size)
    except InputError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"the drawing {printable(icon.name)!r} can't be rendered: {printable(' '.join(str(error).split()))}"
        ) from error


@lru_cache(maxsize=16)
def _read_set(path: Path, stamp: int) -> IconSet:
    read = _folder_reader(path) if path.is_dir() else _archive_reader(path)
    try:
        icons, info = read("icons.json"), read("info.json")
        package, chars = read("package.json", {}), read("chars.json", {})
        licence, author = info["license"], info["author"]
        where = f", {licence['url']}" if licence.get("url") else ""
        return IconSet(
            str(icons["prefix"]),
            str(info["name"]),
            str(package.get("version", "unknown version")),
            str(author["name"]),
            f"{licence['title']}{where}",
            tuple(_icons(icons, chars)),
        )
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not an Iconify package ({type(error).__name__}: {error})") from error


def _icons(content: dict[str, Any], chars: dict[str, str]) -> Iterable[Icon]:
    points: dict[str, tuple[int, ...]] = {}
    for code, name in chars.items():
        points.setdefault(name, tuple(int(part, 16) for part in code.split("-")))
    common = {"left": 0, "top": 0, "width": 16, "height": 16}  # Iconify's own defaults.
    common |= {key: content[key] for key in common if key in content}
    for name, icon in content["icons"].items():
        if icon.get("hidden") or icon.get("rotate") or icon.get("hFlip") or icon.get("vFlip"):
            continue
        left, top, width, height = (float(icon.get(key, common[key])) for key in ("left", "top", "width", "height"))
        if not (width > 0 and height > 0):
            raise ValueError(f"the icon {name!r} has no size")
        yield Icon(str(name), str(icon["body"]), (left, top, width, height), points.get(name, ()))


Read = Callable[..., Any]
"""(file name[, default]) -> its JSON content."""


def _folder_reader(path: Path) -> Read:
    def read(name: str, *default: Any) -> Any:
        file = path / name
        try:
            return _parsed(read_bytes(file, LARGEST), file)
        except FileNotFoundError:
            if default:
                return default[0]
            raise InputError(f"{path}: has no {name}; name a package of Iconify's") from None

    return read


class _Bounded:
    """An archive as it is unpacked, which ends in an error when it grows beyond what a package has."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file, self._left = file, UNPACKED

    def read(self, size: int) -> bytes:
        """The next bytes; tarfile asks for a header's all at once, as long as the archive says that it is."""
        if size > self._left:
            raise OSError(f"over {UNPACKED / 2**20:,.0f} MB when it is unpacked")
        content = self._file.read(size)
        self._left -= len(content)
        return content


def _archive_reader(path: Path) -> Read:
    """Reads the named files only, into memory: nothing of an archive is unpacked."""
    wanted = {f"package/{name}": name for name in ("icons.json", "info.json", "package.json", "chars.json")}
    found = {}
    try:
        with (
            open_regular(path) as raw,
            gzip.GzipFile(fileobj=raw) as file,
            tarfile.open(fileobj=cast(IO[bytes], _Bounded(file)), mode="r|") as archive,
        ):
            for member in archive:
                if member.name in wanted and member.isfile():
                    if member.size > LARGEST:
                        raise InputError(f"{path}: {member.name} has {member.size / 2**20:,.0f} MB")
                    content = archive.extractfile(member)
                    assert content is not None  # It is a file.
                    found[wanted[member.name]] = content.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path}: not a whole .tgz ({error}); get it again") from error

    def read(name: str, *default: Any) -> Any:
        if name not in found:
            if default:
                return default[0]
            raise InputError(f"{path}: has no package/{name}; name a package of Iconify's")
        return _parsed(found[name], f"{path}: package/{name}")

    return read


def _parsed(content: bytes, name: Any) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise InputError(f"{name}: not JSON ({error})") from error
