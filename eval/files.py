"""Files and folders that are there completely or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from eval.errors import InputError


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns an OSError of the block into one line about `place`.

    Raises:
        InputError: the disk is full, or there is no permission.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise InputError(f"cannot write {place}: {reason}; free space or choose another folder") from error


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` when the block ends; an error leaves all as it was."""
    folder = folder.absolute()
    _remove_litter(folder)
    owner = f"{os.getpid()}-{_host()}"
    partial = folder.with_name(f".{folder.name}.partial-{owner}-{uuid.uuid4().hex[:8]}")
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            yield partial
            move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove_litter(folder: Path) -> None:
    """Remove what killed processes of this machine have left of `replacing_folder` for the same folder."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.partial-(\d+)-{_host()}-[0-9a-f]{{8}}")
    if not folder.parent.is_dir():
        return
    for path in folder.parent.iterdir():
        found = pattern.fullmatch(path.name)
        if found and int(found[1]) != os.getpid() and not _runs(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def move_into_place(partial: Path, folder: Path) -> None:
    """Renames the folder `partial` to `folder`, whose old content goes; after an error all is as it was."""
    old = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
    try:
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replacing_files(contents: Mapping[Path, str | bytes]) -> Iterator[None]:
    """Writes several files, all or none. If the block that follows fails, the files are restored.

    Raises:
        InputError: a place cannot be written to, or the disk is full.
    """
    before: dict[Path, bytes | None] = {}
    partial = {path: path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}") for path in contents}
    try:
        for path, content in contents.items():
            with writing(path):
                require_place(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                partial[path].write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        for path in contents:
            with writing(path):
                old = path.read_bytes() if path.exists() else None
                os.replace(partial[path], path)  # noqa: PTH105
            before[path] = old
        yield
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                write_file(path, old)
        raise
    finally:
        for path in partial.values():
            with suppress(OSError):  # in its place already, or never there
                path.unlink()


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Writes several files, all or none; raises as `replacing_files`."""
    with replacing_files(contents):
        pass


def require_place(path: Path) -> None:
    """Checks that a file can be written there; call it before the minutes that its content takes.

    Raises:
        InputError: a folder is in the way, or there is no permission.
    """
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if path.is_dir():
        raise InputError(f"cannot write {path}: a folder is in its place; choose another place")
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "no permission in" if parent.is_dir() else "no folder at"
        raise InputError(f"cannot write {path}: {reason} {parent}; choose another place")


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file through a temporary one beside it, so that nobody ever reads half of it.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(partial, path)  # noqa: PTH105
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another place"
        ) from error
    finally:
        with suppress(OSError):  # gone already, or never there
            partial.unlink()
