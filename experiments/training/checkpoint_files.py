"""Checkpoint files: how many are kept, whether a file is sound, and from which one a run goes on.

`last.ckpt` is the newest, `last-1.ckpt` the one before it, and so on. torch writes the CRC-32 of every record of a
checkpoint into it, and does not look at it when it loads; so that is done here. The checksum is in the file that it is
of: there is no moment at which one is there without the other.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from modules.errors import InputError
from modules.untrusted.pickles import check_stored, not_plain

DAMAGED = ".damaged"
FOLDER = 0x10  # of a zip entry's external attributes


def earlier(last: Path, number: int) -> Path:
    """The checkpoint `number` saves before the last: last-1.ckpt, last-2.ckpt, ..."""
    return last.with_name(f"{last.stem}-{number}{last.suffix}")


def held_back(last: Path) -> Path:
    """The name of the last checkpoint while a new one is written."""
    return last.with_name(f".{last.name}.held")


def kept(last: Path) -> list[Path]:
    """The checkpoints that are there, newest first.

    Without a `last`, the newest is the one that was held back when a save was killed: on a file system without links.
    """
    before = (
        (int(path.stem.removeprefix(f"{last.stem}-")), path)
        for path in last.parent.glob(f"{last.stem}-*{last.suffix}")
        if path.stem.removeprefix(f"{last.stem}-").isdigit()
    )
    newest = last if last.exists() else held_back(last)
    return [path for path in [newest, *(path for _, path in sorted(before))] if path.exists()]


@contextlib.contextmanager
def keeping(last: Path, keep: int) -> Iterator[None]:
    """While a new `last` is written, hold on to the one that is there; then it is `last-1`, what that was `last-2`, ...

    `keep` checkpoints stay in all. If the writing fails, everything is as it was. Whenever this is killed, the newest
    checkpoint that was whole still is.
    """
    held = held_back(last)
    if last.is_file():  # Or what is held already is the newest there is, and stays so.
        held.unlink(missing_ok=True)
        if keep > 1:
            try:
                held.hardlink_to(last)
            except OSError:  # A file system without links: for as long as the writing takes, there is no `last`.
                last.replace(held)
    has_earlier = held.is_file()
    try:
        yield
    except BaseException:
        if has_earlier:
            with contextlib.suppress(OSError):
                held.unlink() if last.exists() else held.replace(last)
        raise
    if has_earlier:
        for number in range(keep - 2, 0, -1):
            if earlier(last, number).exists():
                earlier(last, number).replace(earlier(last, number + 1))
        held.replace(earlier(last, 1))
    for path in kept(last)[keep:]:
        path.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """The damage of a checkpoint file, found by its checksums; None for a sound file.

    Raises:
        PermissionError: it may not be read.
    """
    return _examined(path)[0]


def check_readable(path: Path) -> None:
    """Refuse a checkpoint that can't be read, or not without running code.

    To be called before a Trainer sees the path: some of Lightning's strategies read files by themselves, and in some of
    its releases they run what they find there.

    Raises:
        InputError: it is damaged, holds more than tensors and plain values, or is a folder.
        PermissionError: it may not be read.
    """
    reason = next((reason for reason in _examined(path) if reason), None)
    if reason is not None:
        raise InputError(f"checkpoint {str(path)!r} cannot be read ({reason}); use another, or train anew")


def _examined(path: Path) -> tuple[str | None, str | None]:
    """(what is damaged, what would run code), None for nothing."""
    if path.is_dir():  # One file of each rank; Lightning reads them with pickle.
        return None, "it is a folder, and only checkpoints of one file are read"
    stat = path.stat()
    return _examined_file(path.absolute(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _examined_file(path: Path, mtime: int, size: int) -> tuple[str | None, str | None]:
    """Remembered, since a file is looked at when it is chosen and again when it is loaded."""
    try:
        check_stored(path)
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
            folders = [entry.filename for entry in file.infolist() if entry.external_attr & FOLDER]
        if bad is not None:
            return f"the checksum of {bad!r} in it is wrong", None
        if folders:  # zipfile reads them all the same, and torch does not.
            return f"{folders[0]!r} in it is marked as a folder", None
        # Its table of contents, parts of which only torch looks at; tensors are mapped, not read.
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except PermissionError:
        raise
    except UnpicklingError as error:  # Every bit of it is as it was written: it is no checkpoint, but not damaged.
        return None, not_plain(error)
    except Exception as error:  # There are many; all of them mean that this is not what was written.
        return f"{size:,} bytes, {(str(error) or type(error).__name__).splitlines()[0]}", None
    return None, None


def newest_sound(last: Path) -> Path | None:
    """The newest checkpoint that is not damaged; None when there are no checkpoints at all.

    A damaged one is named in a warning, with the one that is used in its place.

    Raises:
        InputError: all are damaged.
    """
    bad: list[tuple[Path, str]] = []
    for path in kept(last):
        reason = damage(path)
        if reason is None:
            if bad:
                named = ", ".join(f"{str(each)!r} is damaged ({why})" for each, why in bad)
                warn(f"checkpoint {named}: going on from the one before it, {str(path)!r}")
            return path
        bad.append((path, reason))
    if bad:
        named = ", ".join(f"{str(each)!r} cannot be read ({why})" for each, why in bad)
        raise InputError(f"checkpoint {named}; train anew, with --overwrite")
    return None


def tidy(last: Path) -> None:
    """Remove what killed writers left, and rename damaged checkpoints so that no sound one is dropped in their favour.

    To be called while no other process writes here.
    """
    for path in last.parent.glob(f".{last.name}.*.part"):
        path.unlink(missing_ok=True)
    if last.exists():  # Else what is held is the newest; all ranks find it where it is, and the next save moves it on.
        held_back(last).unlink(missing_ok=True)
    for path in kept(last):
        if damage(path) is not None:
            path.replace(path.with_name(path.name + DAMAGED))


@rank_zero_only
def warn(text: str) -> None:
    """One line on stderr, once for all ranks."""
    print(f"unclip: warning: {text}", file=sys.stderr, flush=True)
