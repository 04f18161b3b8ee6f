"""Showing a split that was written shard by shard: there whole or not at all, and never beside an old record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Unfinished(Protocol):
    """A split in the making.

    Attributes:
        path: its folder when it is whole.
        partial: the folder in which it is made.
    """

    path: Path
    partial: Path

    def missing(self) -> list[int]:
        """The numbers of the shards that are still to be made."""
        ...


def check_whole(files: Unfinished) -> None:
    """Raises a ValueError if shards are missing."""
    missing = files.missing()
    if missing:
        raise ValueError(f"{files.partial}: shards {missing} are missing")


def show_split(files: Unfinished, forget: Callable[[], None], record: Callable[[], None]) -> None:
    """Put a whole split in the place of an older one; by one process.

    Args:
        files: the split.
        forget: removes the record of the old one, first, so that no old record stands beside new files.
        record: writes that of the new one.
    """
    if files.path.exists():
        forget()
        shutil.rmtree(files.path)
    files.partial.replace(files.path)
    record()
