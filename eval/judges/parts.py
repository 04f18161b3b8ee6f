"""Features by several processes: each looks at every n-th batch, and the parts are joined to what one would see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.errors import InputError
from eval.judges.features import part_batches
from eval.judges.judges import Judges, batch_of, missing_files, open_features, seen_by
from eval.samples.folder import SampleFolder

PARTS = ".parts"


def look_at_part(
    folder: SampleFolder,
    judges: Judges,
    cache: Path,
    rank: int,
    world: int,
    scores: bool = True,
    tick: Callable[[int], Any] | None = None,
) -> None:
    """Shows every `world`-th batch from the `rank`-th on to the judges whose features the cache lacks.

    Args:
        folder, judges, cache, scores, tick: see `eval.judges.judges.look`.
        rank, world: which of the processes this is.
    """
    wanted = missing_files(folder, judges, cache, scores)
    if not wanted:
        return
    names = {name for name, _ in wanted}
    chosen = {name: judge for name, judge in judges.everyone(scores).items() if name in names}
    places = {key: part_file(target, rank, world) for key, target in wanted.items()}
    partial = {key: place.with_name(f"{place.name}.tmp") for key, place in places.items()}
    size = batch_of(folder)
    count = sum(min(size, len(folder) - start) for start in range(rank * size, len(folder), world * size))
    arrays: dict[tuple[str, str], np.ndarray] = {}
    done = 0
    for start, images in part_batches(folder, size, rank, world):
        for key, values in seen_by(chosen, images, folder.records[start : start + len(images)]):
            if key not in arrays:  # A memory map: the part lies on the disk, however many pictures there are.
                arrays[key] = open_features(partial[key], (count, *values.shape[1:]), values.dtype)
            arrays[key][done : done + len(values)] = values
        done += len(images)
        if tick is not None:
            tick(len(images))
    for key, place in places.items():
        if key in arrays:
            arrays[key].flush()  # type: ignore[attr-defined]
        else:  # There were fewer batches than processes.
            open_features(partial[key], (0,), np.dtype(np.float32))
        os.replace(partial[key], place)  # noqa: PTH105


def join_parts(folder: SampleFolder, judges: Judges, cache: Path, world: int, scores: bool = True) -> None:
    """Puts the parts of `world` processes together, as files that `look` finds.

    Raises:
        InputError: a process has left no part.
    """
    for target in missing_files(folder, judges, cache, scores).values():
        places = [part_file(target, rank, world) for rank in range(world)]
        absent = [place for place in places if not place.is_file()]
        if absent:
            raise InputError(f"a process that looks at {folder.path} has ended early; the same command goes on")
        parts = [np.load(place, mmap_mode="r") for place in places]
        partial = target.with_name(f".{target.stem}.joined.npy")
        whole = open_features(partial, (len(folder), *parts[0].shape[1:]), parts[0].dtype)
        taken, size = [0] * world, batch_of(folder)
        for k, start in enumerate(range(0, len(folder), size)):
            n, rank = min(size, len(folder) - start), k % world
            whole[start : start + n] = parts[rank][taken[rank] : taken[rank] + n]
            taken[rank] += n
        whole.flush()  # type: ignore[attr-defined]
        os.replace(partial, target)  # noqa: PTH105
        for place in places:
            place.unlink()


def part_file(target: Path, rank: int, world: int) -> Path:
    """The path of a process's part of a file of features."""
    return target.parent / PARTS / f"{target.stem}-{rank}-of-{world}.npy"
