"""Whether embeddings are still those that were written: checksums of the files, norms of the rows.

A checksum notices every change: rows that are zeros, scaled, reversed or of other pictures. Older folders have no
checksums. There the norms are checked, which finds zeros and scaled rows; and whether a row's two embeddings belong
together, which finds rows in another order.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np

from datamodules.embeddings.shards import METADATA, PLACES, REPLACED, ShardedArray
from modules.errors import InputError
from modules.untrusted.reading import open_regular

SAMPLED = 4096
"""Rows whose norms are looked at, spread over the split."""
LEAST = 32
"""Rows from which on it is asked whether z_i and z_t belong together."""
NORM_TOLERANCE = 1e-3
"""Of a unit norm; float32 rounding is 1e-6."""


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a split, by its name relative to the split's folder."""
    kinds = (*PLACES.values(), METADATA, REPLACED)
    files = sorted(path for kind in kinds for path in (folder / kind).glob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def check_recorded(folder: Path, recorded: dict[str, str], kinds: tuple[str, ...], required: bool) -> None:
    """Notice files without a checksum: they may be others than those that were written.

    Args:
        folder: of the split.
        recorded: `checksums` as they were when it was written; empty for an older folder.
        kinds: the folders of the kinds that are about to be used.
        required: whether the folder is of a version in which every file has one; of an older one it is said, once.

    Raises:
        InputError: a file has none, and its folder or another file of the split has.
    """
    files = sorted(path for kind in kinds for path in (folder / kind).glob("*.npy"))
    bare = [path for path in files if path.relative_to(folder).as_posix() not in recorded]
    if not bare:
        return
    if required or recorded:
        raise InputError(
            f"{bare[0]} has no checksum in embeddings.json, where `unclip embed` writes one for every file: it was "
            "removed, or the file was added; take the original, or run `unclip embed` again with --overwrite"
        )
    _say_unchecked(folder.parent)


@lru_cache(maxsize=64)
def _say_unchecked(folder: Path) -> None:
    logging.getLogger(__name__).warning(
        "%s has no checksums: an earlier version wrote it, or they were removed. Only norms are looked at, and whether "
        "z_i and z_t go together; `unclip embed` compares some pairs with the CLIP",
        folder,
    )


def warn_of_other_rows(z_i: ShardedArray, z_t: ShardedArray, folder: Path) -> None:
    """Say if z_i and z_t of a row are no nearer to each other than those of two rows: the rows of one are others.

    For folders without checksums. A CLIP that was never trained gives such embeddings, too.

    Args:
        z_i, z_t: (n, D) rows of a split.
        folder: of the split.
    """
    count = min(len(z_i), SAMPLED)
    if count < LEAST:
        return
    chosen = np.linspace(0, len(z_i) - 1, count).astype(np.int64).tolist()
    pictures, captions = (_unit(rows[chosen]) for rows in (z_i, z_t))
    own = (pictures * captions).sum(axis=1)
    others = np.concatenate([(pictures * np.roll(captions, shift, axis=0)).sum(axis=1) for shift in (1, 7, count // 2)])
    error = (own.var() / len(own) + others.var() / len(others)) ** 0.5
    if own.mean() - others.mean() <= 4 * error:
        logging.getLogger(__name__).warning(
            "%s: z_i and z_t of a row are no nearer to each other (cosine %.3f) than those of two rows (%.3f): "
            "the rows of one are in another order, or their CLIP was not trained; run `unclip embed` with --overwrite",
            folder,
            own.mean(),
            others.mean(),
        )


def _unit(rows: np.ndarray) -> np.ndarray:
    z = rows.astype(np.float64)
    return z / np.linalg.norm(z, axis=1, keepdims=True).clip(min=1e-12)


def check_files(folder: Path, recorded: dict[str, str], wanted: tuple[str, ...]) -> None:
    """Compare the files of a split with their checksums, once a process.

    Args:
        folder: of the split.
        recorded: `checksums` as they were when it was written; empty for an older folder.
        wanted: the folders of the kinds that are about to be used.

    Raises:
        InputError: a file was changed, or is missing; its name is said.
    """
    for name, digest in recorded.items():
        if name.partition("/")[0] not in wanted:
            continue
        path = folder / name
        try:
            found = _digest(path)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; run `unclip embed` again") from error
        if found != digest:
            raise InputError(
                f"{path} is not the file that `unclip embed` wrote (its checksum differs): take the original, or run "
                "`unclip embed` again with --overwrite"
            )


def check_norms(rows: ShardedArray, place: Path, unit: bool = True) -> None:
    """Refuse embeddings that are not finite and of unit norm, by a sample of the rows; without `unit`, of norm 0.

    Raises:
        InputError: names the folder, a row and its norm.
    """
    if not len(rows):
        return
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED)).astype(np.int64))
    norms = np.linalg.norm(rows[chosen.tolist()].astype(np.float64), axis=1)
    right = np.abs(norms - 1) <= NORM_TOLERANCE if unit else np.isfinite(norms) & (norms > 0)
    wrong = np.flatnonzero(~right)
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"{place}: row {chosen[first]} has norm {norms[first]:.4g}{' and not 1' if unit else ''} ({len(wrong)} of "
            f"{len(chosen)} rows that were looked at): they are not embeddings as `unclip embed` writes them; run it "
            "again with --overwrite"
        )


def _digest(path: Path) -> str:
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=4096)
def _hashed(path: Path, size: int, changed: int, number: int) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
