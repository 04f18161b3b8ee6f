"""A cache on disk of rendered images and records, which all stages and processes share.

A file's name holds a hash of everything that made it, so a file that exists is right: it is written beside, synced
and renamed, under a lock, and never changed afterwards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from modules.errors import InputError

Renderer = Callable[[int], np.ndarray]
"""index -> (size, size, 3) uint8."""


class MappedArray:
    """A read-only .npy file, mapped into memory when first used in each process.

    Pickles as its path, so that loader processes map the file instead of receiving a copy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: np.ndarray | None = None

    @property
    def array(self) -> np.ndarray:
        if self._array is None:
            self._array = np.lib.format.open_memmap(self.path, mode="r").view(np.ndarray)
        return self._array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        return self.array[list(indices)]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_array": None}


class RenderedOnDemand:
    """The same as a cached array, without the cache: renders what it is asked for, each time."""

    def __init__(self, count: int, render: Renderer) -> None:
        self.count, self.render = count, render

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        return np.stack([self.render(index) for index in indices])


def cached_images(folder: Path, name: str, key: Any, count: int, size: int, render: Renderer) -> MappedArray:
    """(count, size, size, 3) uint8 images, rendered by the first process that asks and mapped by all.

    Args:
        folder: cache folder, made when missing.
        name: readable start of the file name.
        key: everything, as JSON-able data, that decides the content; hashed into the file name.
        count: number of images.
        size: side in pixels.
        render: index -> (size, size, 3) uint8.

    Raises:
        InputError: the folder can't be written or has no room; the line names it.
    """
    path = folder / f"{name}-{size}px-{digest([key, count, size])}.npy"
    shape = (count, size, size, 3)

    def write(temporary: Path) -> None:
        # Plain writes, not a memory map: a full disk is then an error, and not the end of the process.
        with temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for index in tqdm(range(count), f"rendering {name}, {size} px", disable=None, delay=1, leave=False):
                file.write(np.ascontiguousarray(render(index), np.uint8).data)

    def intact() -> bool:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):
            return False
        return found.shape == shape and found.dtype == np.uint8

    _build_once(path, write, intact, count * size * size * 3)
    return MappedArray(path)


def cached_json(folder: Path, name: str, key: Any, make: Callable[[], Any]) -> Any:
    """What `make()` returns (JSON-able), computed by the first process that asks; see `cached_images`."""
    path = folder / f"{name}-{digest(key)}.json"
    _build_once(path, lambda temporary: _write_text(temporary, json.dumps(make())), lambda: _parses(path), 0)
    return json.loads(path.read_text(encoding="utf-8"))


def digest(key: Any) -> str:
    """16 hexadecimal digits that identify JSON-able data."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def hash_of(text: str) -> int:
    """64 bits that are the same on every machine: what decides splits and samples of data."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def source_hash(module: ModuleType) -> str:
    """Hash of a module's source: what it computes is recomputed when its code changes."""
    assert module.__file__ is not None
    return hashlib.sha256(Path(module.__file__).read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]


def _build_once(path: Path, write: Callable[[Path], None], intact: Callable[[], bool], size: int) -> None:
    if path.exists() and intact():
        return
    with _explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if path.exists() and intact():  # Another process was faster.
                return
            free = shutil.disk_usage(path.parent).free
            if size > free:
                raise InputError(
                    f"{path.parent}: needs {size / 1e6:.0f} MB for {path.name} and has {free / 1e6:.0f} MB free: "
                    "set cache_dir to another folder, or to null to render without a cache"
                )
            temporary = path.with_suffix(".tmp")  # Under the lock, so one name will do, and a killed writer leaves one.
            try:
                write(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: the cache can't be written ({error.strerror or error}): "
            "set cache_dir to a folder with room that you may write, or to null"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=3)
    except Timeout:
        logging.getLogger(__name__).warning("waiting for another process that makes %s", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _parses(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
