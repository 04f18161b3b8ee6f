"""Reads embedding folders that clip-retrieval wrote: float16, several shards, captions in parquet.

There is either one folder, whose last rows serve validation and testing, or one for each split (DIR/train/img_emb).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.base import SPLITS
from datamodules.embeddings.shards import (
    METADATA,
    PLACES,
    ShardedArray,
    numbered,
    open_array,
    read_captions,
    rows_without_caption,
)
from datamodules.faults import Fault
from datamodules.rendered.cache import digest
from modules.errors import InputError

_HINT = "a folder of clip-retrieval's holds img_emb, text_emb and metadata with the same shards"


class CaptionTokens:
    """Tokens made from captions when rows are asked for.

    Args:
        columns: a pyarrow array of captions for each shard.
        tokenizer: captions -> (B, L) int64.
    """

    def __init__(self, columns: Sequence[Any], tokenizer: Callable[[list[str]], Tensor]) -> None:
        self.columns, self.tokenizer = list(columns), tokenizer
        self.starts = np.concatenate([[0], np.cumsum([len(column) for column in columns])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """The captions of some rows."""
        shards = np.searchsorted(self.starts, np.asarray(rows, np.int64), side="right") - 1
        places = zip(rows, shards.tolist(), strict=True)
        return [self.columns[shard][row - int(self.starts[shard])].as_py() for row, shard in places]

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        # Captions that are too long are cut, as they were when their embeddings were computed.
        return getattr(self.tokenizer, "cutting", self.tokenizer)(self.captions(rows)).numpy()


@dataclass(frozen=True)
class Found:
    """A split of a clip-retrieval folder.

    Attributes:
        z_i, z_t, tokens: of all rows of the folder.
        first, count: the split's share of them.
        chosen: those of them that can be used, by number.
        faults: why the others cannot.
    """

    z_i: ShardedArray
    z_t: ShardedArray
    tokens: CaptionTokens
    first: int
    count: int
    chosen: range | np.ndarray
    faults: list[Fault]


def is_folder(path: Path) -> bool:
    """Whether clip-retrieval may have written this folder, or those of its splits."""
    return any((folder / PLACES["z_i"]).is_dir() for folder in (path, *(path / split for split in SPLITS)))


def read(path: Path, split: str, held_out: dict[str, int], tokenizer: Callable[[list[str]], Tensor]) -> Found:
    """A split of a folder.

    Args:
        path: the folder, with or without splits.
        split: "train", "val" or "test".
        held_out: rows for "val" and "test" where there are no splits: the last ones, which in a crawl are no
            neighbours of most training rows, in the order train, val, test.
        tokenizer: captions -> (B, L) int64 tokens.

    Raises:
        InputError: shards that are missing or do not fit together, unreadable files, or too few rows; it names them.
    """
    flat = (path / PLACES["z_i"]).is_dir()
    folder = path if flat else path / split
    z_i, z_t, columns = _shards(folder)
    tokens = CaptionTokens(list(columns.values()), tokenizer)
    if not flat:
        return _usable(folder, columns, z_i, z_t, tokens, range(len(z_i)))
    ends = {"train": len(z_i) - sum(held_out.values()), "val": len(z_i) - held_out["test"], "test": len(z_i)}
    if ends["train"] < 1:
        raise InputError(
            f"{path}: {len(z_i)} rows, of which val_size ({held_out['val']}) and test_size ({held_out['test']}) leave "
            "none to train on: lower them"
        )
    first = {"train": 0, "val": ends["train"], "test": ends["val"]}[split]
    return _usable(folder, columns, z_i, z_t, tokens, range(first, ends[split]))


def identity(path: Path, more: list[Any]) -> str:
    """Hash that identifies the shards by name and size, and `more`."""
    files = sorted(path.rglob("*.npy")) + sorted(path.rglob("*.parquet"))
    return digest([more, [[str(file.relative_to(path)), file.stat().st_size] for file in files]])


def _usable(
    folder: Path, columns: dict[int, Any], z_i: ShardedArray, z_t: ShardedArray, tokens: CaptionTokens, share: range
) -> Found:
    """The usable rows of a share of a folder; rows without a caption and missing shards become faults.

    A missing shard belongs to the share of the rows that follow it, and counts as many rows as the largest shard.
    """
    faults, lacking = [], []
    usual = max(map(len, columns.values()))  # Only the last one holds fewer.
    paths, starts = numbered(folder, METADATA, ".parquet"), tokens.starts.tolist()
    following = min(columns)
    for (number, column), start in zip(columns.items(), starts[:-1], strict=True):
        if start in share:
            gap = range(following, number)
            faults += [Fault(f"{folder}: shard {lost}", "a missing shard", pairs=usual) for lost in gap]
        following = number + 1
        without = rows_without_caption(column)
        mine = without[(without + start >= share.start) & (without + start < share.stop)]
        if len(mine):
            shown = ", ".join(map(str, mine[:5])) + ", ..." * (len(mine) > 5)
            faults.append(Fault(str(paths[number]), "no caption", f"rows {shown}", pairs=len(mine)))
            lacking.append(mine + start)
    chosen = np.setdiff1d(np.asarray(share), np.concatenate(lacking)) if lacking else share
    return Found(z_i, z_t, tokens, share.start, len(share), chosen, faults)


def _shards(folder: Path) -> tuple[ShardedArray, ShardedArray, dict[int, Any]]:
    images = numbered(folder, PLACES["z_i"])
    if not images:
        raise InputError(f"{folder / PLACES['z_i']}: no shards img_emb_0.npy, img_emb_1.npy, ... there; {_HINT}")
    for place, suffix in ((PLACES["z_t"], ".npy"), (METADATA, ".parquet")):
        there = set(numbered(folder, place, suffix))
        unpaired = sorted(there ^ set(images))
        if unpaired:
            lacking = folder / (place if unpaired[0] in images else PLACES["z_i"])
            raise InputError(f"{lacking}: shard {unpaired[0]} is missing there; {_HINT}")
    z_i, z_t = (
        open_array(list(numbered(folder, PLACES[kind]).values()), ["float16", "float32"], (-1,), _HINT)
        for kind in ("z_i", "z_t")
    )
    if z_i.row_shape != z_t.row_shape:
        raise InputError(f"{folder}: img_emb is {z_i.row_shape[0]} wide, text_emb {z_t.row_shape[0]}; {_HINT}")
    columns = {number: read_captions(path) for number, path in numbered(folder, METADATA, ".parquet").items()}
    for a, b, (number, column) in zip(z_i.parts, z_t.parts, columns.items(), strict=True):
        counts = len(a), len(b), len(column)
        if len(set(counts)) > 1:
            rows = "{} rows in img_emb, {} in text_emb, {} in metadata".format(*counts)
            raise InputError(f"{folder}: {rows} of shard {number}; {_HINT}")
    return z_i, z_t, columns
