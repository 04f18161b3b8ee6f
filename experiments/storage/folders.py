"""Files and run folders: written whole or not at all, and moved aside rather than deleted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from modules.untrusted.reading import parse_json, read_bytes
from modules.untrusted.writing import clear_way

PREVIOUS = ".previous"
MAX_RECORD = 2**26
"""Bytes of a record: a stage's has the content of the files that its command names."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], sync: bool = True) -> None:
    """Let `write` fill a file beside `path`, and rename it: `path` is the old file or the new, never half of one.

    Args:
        path: the file; its folder is made if need be.
        write: is given the open file.
        sync: wait until it is on the disk, so that it outlives a power cut.

    Raises:
        OSError: it could not be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        clear_way(beside)
        with beside.open("wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries, so that a rename in it outlives a power cut."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Sync a folder with all files in it, if it is there: after that, what says that they are there may be written."""
    if folder.is_dir():
        for path in (*folder.rglob("*"), folder, folder.parent):
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()), sync)


def write_json(path: Path, content: Any, sync: bool = True) -> None:
    """Write `content` to `path` atomically, as JSON."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n", sync)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None if there is none, or it cannot be read."""
    try:
        content = parse_json(read_bytes(path, MAX_RECORD), str(path))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def set_aside(path: Path, shelf: Path) -> None:
    """Move `path`, if it is there, to `shelf`, whose earlier content goes: one previous version is kept."""
    if not path.exists():
        return
    if shelf.is_dir():
        shutil.rmtree(shelf)
    else:
        shelf.unlink(missing_ok=True)
    shelf.parent.mkdir(parents=True, exist_ok=True)
    path.rename(shelf)


def remove_stale(folder: Path, known: Iterable[str], kinds: Iterable[str], made: Iterable[str]) -> list[Path]:
    """Remove files that an earlier call wrote and this call did not, such as the table of a sweep that was deleted.

    Args:
        folder: RUN/tables or RUN/figures.
        known: patterns of the names that the command writes.
        kinds: their suffixes, without the dot.
        made: names of this call.

    Returns:
        The files.
    """
    files = {path for name in known for kind in kinds for path in folder.glob(f"{name}.{kind}")}
    gone = sorted(path for path in files if path.stem not in set(made))
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
