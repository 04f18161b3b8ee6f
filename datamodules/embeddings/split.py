"""One split of an embeddings folder while it is made: shard by shard, by one process or several, resumable.

Its shards lie in DIR/.SPLIT.partial, beside plan.json, which says what they are shards of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import check_split
from datamodules.embeddings.folder import EmbeddingsInfo
from datamodules.embeddings.shards import Column, ShardFiles, is_complete, read_replaced, remove_unfinished
from modules.clip.origin import same_clip
from modules.errors import InputError
from modules.untrusted.reading import read_json

SHARD_ROWS = 65_536
PLAN = "plan.json"
SAID_BY = {
    "clip_fingerprint": "--clip of fingerprint",
    "dim": "--clip of width",
    "context": "--clip of context",
    "features": "--token-features of width",
    "shard_rows": "--shard-rows",
    "image_size": "--image-size",
    "precision": "--precision",
    "draft_margin": "the data's picture.draft_margin",
    "size": "rows",
    "data_hash": "data of hash",
    "captions": "captions beside (with pyarrow)",
}
"""Key of a plan -> how a message calls it when two plans differ."""


@dataclass(frozen=True)
class Encoded:
    """A CLIP's outputs for B pairs.

    Attributes:
        z_i, z_t: (B, D) of unit norm.
        tokens: (B, L) int64.
        captions: B strings.
        features: (B, L, W) of every token, or None.
        index: (B,) int64, numbers of the pairs; None if row i holds pair i throughout.
    """

    z_i: Tensor
    z_t: Tensor
    tokens: Tensor
    captions: Sequence[str]
    features: Tensor | None = None
    index: Tensor | None = None


class SplitFiles:
    """One split in the making.

    Args:
        folder: the embeddings folder.
        split: "train", "val" or "test".
        info: what is made.
        size: n, rows of the split.
        data_hash: of the data that are embedded.
        shard_rows: rows of a shard; the last one has fewer.
        captions: whether to write them, as clip-retrieval does, to metadata/*.parquet.
        settings: what else decides the numbers: image size, precision, ...
        overwrite: begin anew where there are shards of another plan.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        info: EmbeddingsInfo,
        size: int,
        data_hash: str,
        shard_rows: int,
        captions: bool,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.partial = folder / check_split(split), folder / f".{split}.partial"
        self.split, self.size, self.data_hash, self.captions = split, size, data_hash, captions
        self.settings, self.overwrite, self.normalised = dict(settings or {}), overwrite, info.normalised
        self.columns = {
            "z_i": Column("<f4", (info.dim,)),
            "z_t": Column("<f4", (info.dim,)),
            "tokens": Column("<i8", (info.context,)),
        }
        if info.features is not None:
            self.columns["features"] = Column("<f2", (info.context, info.features))
        self.ranges = [range(first, min(first + shard_rows, size)) for first in range(0, size, shard_rows)]
        made_of = ("clip_fingerprint", "dim", "context", "features")
        plan = {key: getattr(info, key) for key in made_of} | {"size": size, "data_hash": data_hash}
        self._plan: dict[str, Any] = {**plan, "shard_rows": shard_rows, "captions": captions, **self.settings}

    def prepare(self) -> None:
        """Make ready for shards, keeping those of an earlier run of the same plan; by one process, before any writes.

        Raises:
            InputError: there is no room for what is missing, or there are shards of another plan and `overwrite` is
                off.
            OSError: the folder can't be written.
        """
        if not self.partial.exists() and self._is_mine(self.path):
            self.path.replace(self.partial)  # Complete, but not recorded: that run ended between the two.
        if not self._is_mine(self.partial):
            self.check()
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            temporary = self.partial / f".{PLAN}.tmp"
            temporary.write_text(json.dumps(self._plan, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.partial / PLAN)
        remove_unfinished(self.partial)
        rows = sum(len(self.ranges[number]) for number in self.missing())
        needed = rows * sum(column.row_bytes() for column in self.columns.values())
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            raise InputError(
                f"{self.path.parent}: needs {needed / 1e6:,.{0 if needed > 1e7 else 2}f} MB for the {self.split} "
                f"embeddings and has {free / 1e6:,.0f} MB free: name a folder on another disk"
            )

    def _is_mine(self, folder: Path) -> bool:
        plan = _read_plan(folder)
        return plan is not None and not differences(plan, self._plan)

    def check(self) -> None:
        """Refuse to remove shards of another plan.

        Raises:
            InputError: there are some, and `overwrite` is off.
        """
        if self.overwrite or self._is_mine(self.partial) or not any(self.partial.rglob("*.npy")):
            return
        plan = _read_plan(self.partial)
        how = f"{PLAN} is missing or damaged" if plan is None else differences(plan, self._plan)
        raise InputError(
            f"{self.partial}: holds unfinished embeddings made otherwise ({how}): give what they were made with, name "
            "another folder, or pass --overwrite to begin anew"
        )

    def missing(self) -> list[int]:
        """The numbers of the shards that are still to be made."""
        return [k for k in range(len(self.ranges)) if not is_complete(self.partial, k, self.columns, self.captions)]

    def shard(self, number: int) -> ShardFiles:
        """Begin to write a shard."""
        return ShardFiles(self.partial, number, len(self.ranges[number]), self.columns, self.captions)

    def append(self, files: ShardFiles, encoded: Encoded) -> None:
        """Write rows into a shard.

        Raises:
            ValueError: of another shape than the plan's, or embeddings that are to be of unit norm and are not.
        """
        rows = {"z_i": encoded.z_i, "z_t": encoded.z_t, "tokens": encoded.tokens, "features": encoded.features}
        arrays = {kind: _numpy(rows[kind]) for kind in self.columns}
        files.check(arrays, len(encoded.captions))
        for z in (encoded.z_i, encoded.z_t) if self.normalised else ():
            if not torch.allclose(z.float().norm(dim=1), torch.ones(len(z), device=z.device), atol=1e-3):
                raise ValueError("the embeddings are not of unit norm")
        if encoded.index is not None:
            first = self.ranges[files.number].start + files.rows
            pairs = encoded.index.tolist()
            files.replaced += [(row, pair) for row, pair in enumerate(pairs, start=first) if row != pair]
        files.append(arrays, encoded.captions)

    def replaced(self) -> np.ndarray:
        """(K, 2) int64: rows that hold another pair's embeddings, and which one's; of the shards that are there."""
        return read_replaced(self.partial, self.size)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two plans differ, as a text; "" if they don't. A key that only one of them has is not compared."""
    changed = [
        f"{SAID_BY.get(key, key)} {there[key]}, not {here[key]}"
        for key in here
        if key in there
        and there[key] != here[key]
        and not (key == "clip_fingerprint" and same_clip(str(there[key]), str(here[key])))
    ]
    return "; ".join(changed)


def _numpy(tensor: Tensor | None) -> np.ndarray:
    if tensor is None:
        raise ValueError("the token features are missing")
    return tensor.detach().cpu().numpy()


def _read_plan(folder: Path) -> Any:
    try:
        plan = read_json(folder / PLAN)
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None
