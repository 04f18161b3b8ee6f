"""SVGs of strangers, rendered: no file outside of the drawing is read; one that kills the renderer is named."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.parsers import expat

import numpy as np
from PIL import Image

from modules.errors import InputError

LARGEST = 2**20
"""Characters of a drawing: the largest of the emoji sets have 100,000."""
DEEPEST = 256
"""Elements within each other."""
SECONDS = 30.0
"""How long one drawing may take; those of the emoji sets take milliseconds."""

_REFUSED = ("image", "feimage", "foreignobject", "script")
"""Elements that show or run something else, in small letters."""
_URL = re.compile(r"url\s*\(", re.IGNORECASE)


def check_svg(svg: str) -> None:
    """Refuse drawings that name files, or that are too large or too deep.

    The drawing is read by an XML parser, in time linear in its length: names and values are compared as a renderer sees
    them, after namespaces, character references and CDATA.

    Raises:
        ValueError: says what is in it.
    """
    if len(svg) > LARGEST:
        raise ValueError(f"it has {len(svg):,} characters, over the limit of {LARGEST:,}")
    check, parser = _Check(), expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = check.start, check.end
    parser.CharacterDataHandler = check.text
    parser.StartDoctypeDeclHandler, parser.ProcessingInstructionHandler = check.doctype, check.instruction
    try:
        parser.Parse(svg, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no SVG ({error})") from None


class _Check:
    """What is refused, as the parser comes to it."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._style: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = _local(tag)
        if name in _REFUSED:
            raise ValueError(f"it holds {name[:40]!r}, which may read other files")
        self._open.append(name)
        if len(self._open) > DEEPEST:
            raise ValueError(f"its elements lie more than {DEEPEST} deep in each other")
        for key, value in attributes.items():
            if _local(key) in ("href", "src") and not value.lstrip().startswith("#"):
                raise ValueError(f"it links to {value[:40]!r}, outside of the drawing")
            _check_css(value, escapes=_local(key) != "style")

    def end(self, tag: str) -> None:
        self._open.pop()
        if _local(tag) == "style":
            _check_css("".join(self._style))
            self._style.clear()

    def text(self, text: str) -> None:
        if "style" in self._open:
            self._style.append(text)

    def doctype(self, *declaration: object) -> None:
        raise ValueError("it holds 'DOCTYPE', which may read other files")

    def instruction(self, target: str, text: str) -> None:
        raise ValueError(f"it holds {target[:40]!r}, which may read other files")


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition(":")[2].lower()


def _check_css(text: str, escapes: bool = False) -> None:
    """Refuse style sheets and values that name a file, or that could hide one in an escape of CSS."""
    if "@import" in text.lower() or ("\\" in text and not escapes):
        raise ValueError("it holds '@import' or an escape of CSS, which may read other files")
    for found in _URL.finditer(text):
        place = text[found.end() : found.end() + 100].lstrip(" \t\r\n\"'")
        if not place.startswith("#"):
            raise ValueError(f"it links to {place[:40]!r}, outside of the drawing")


def render_untrusted(svg: str, size: int) -> np.ndarray:
    """(size, size, 3) uint8 picture of a square SVG on white, made by a process that may die of it.

    Raises:
        InputError: the renderer is missing.
        ValueError: it is no SVG, names other files, is too large or deep, or the renderer ends or does not end.
    """
    check_svg(svg)
    png = _process().render(svg.encode("utf-8"), size)
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        if image.size != (size, size):
            raise InputError("resvg-py is too old: it ignores the size of a drawing")
        return np.asarray(image.convert("RGB"))


class _Renderer:
    """The renderer's process, started anew after it has died."""

    def __init__(self) -> None:
        self._lock, self.owner = threading.Lock(), os.getpid()
        self._child: subprocess.Popen[bytes] | None = None

    def render(self, svg: bytes, size: int) -> bytes:
        with self._lock:
            child = self._running()
            try:
                return self._ask(child, svg, size)
            except (EOFError, BrokenPipeError):
                code = self._end()
                raise ValueError(f"the renderer has died of it (exit code {code})") from None
            except TimeoutError:
                self._end()
                raise ValueError(f"it takes over {SECONDS:g} seconds to render") from None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            command = [sys.executable, str(Path(__file__).with_name("svg_worker.py"))]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._child = subprocess.Popen(command, **pipes, start_new_session=True)  # type: ignore[call-overload]
        return self._child

    def _ask(self, child: subprocess.Popen[bytes], svg: bytes, size: int) -> bytes:
        assert child.stdin is not None and child.stdout is not None
        end = time.monotonic() + SECONDS
        child.stdin.write(struct.pack("<II", len(svg), size) + svg)
        child.stdin.flush()
        length, told = struct.unpack("<II", _read(child.stdout.fileno(), 8, end))
        png, said = _read(child.stdout.fileno(), length, end), _read(child.stdout.fileno(), told, end)
        if not png:
            raise ValueError(said.decode("utf-8", "replace"))
        return png

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        with contextlib.suppress(OSError):
            child.kill()
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code

    def close(self) -> None:
        """End the process, if it is this one's."""
        if self.owner == os.getpid():
            self._end()


def _read(descriptor: int, count: int, end: float) -> bytes:
    parts: list[bytes] = []
    while count:
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(descriptor, min(count, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


_ours: list[_Renderer] = []


def _process() -> _Renderer:
    """This process's renderer: a forked one has its own."""
    if not _ours or _ours[-1].owner != os.getpid():
        from datamodules.rendered.openmoji import renderer_version

        renderer_version()  # Says how to install it.
        _ours[:] = [_Renderer()]
        atexit.register(_ours[-1].close)
    return _ours[-1]
