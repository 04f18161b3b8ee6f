"""Writing an embeddings folder: shard by shard, by one process or several, resumable, and whole or not at all.

While a split is made its shards lie in DIR/.SPLIT.partial, beside plan.json, which says what they are shards of. When
all are there the folder is renamed and embeddings.json names the split.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.embedding_folder import MANIFEST, EmbeddingsInfo, open_embeddings
from datamodules.embedding_shards import Column, ShardFiles, has_parquet, is_complete, remove_unfinished
from datamodules.loading import check_split
from modules.clip_origin import same_clip
from modules.errors import InputError

SHARD_ROWS = 65_536
PLAN = "plan.json"
_OTHER = "name another folder or pass --overwrite"


@dataclass(frozen=True)
class Encoded:
    """What a CLIP makes of B pairs.

    Attributes:
        z_i, z_t: (B, D) of unit norm.
        tokens: (B, L) int64.
        captions: B strings.
        features: (B, L, W) of every token, or None.
    """

    z_i: Tensor
    z_t: Tensor
    tokens: Tensor
    captions: Sequence[str]
    features: Tensor | None = None


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
    """

    def __init__(
        self, folder: Path, split: str, info: EmbeddingsInfo, size: int, data_hash: str, shard_rows: int, captions: bool
    ) -> None:
        self.path, self.partial = folder / check_split(split), folder / f".{split}.partial"
        self.split, self.size, self.data_hash, self.captions = split, size, data_hash, captions
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
        self._plan: dict[str, Any] = {**plan, "shard_rows": shard_rows, "captions": captions}

    def prepare(self) -> None:
        """Make ready for shards, keeping those of an earlier run of the same plan; by one process, before any writes.

        Raises:
            InputError: there is no room for what is missing.
            OSError: the folder can't be written.
        """
        if not self.partial.exists() and _read_plan(self.path) == self._plan:
            self.path.replace(self.partial)  # Complete, but not recorded: that run ended between the two.
        if _read_plan(self.partial) != self._plan:
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
                f"{self.path.parent}: needs {needed / 1e6:,.0f} MB for the {self.split} embeddings and has "
                f"{free / 1e6:,.0f} MB free: name a folder on another disk"
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
            ValueError: of another shape than the plan's, or embeddings that are not of unit norm.
        """
        rows = {"z_i": encoded.z_i, "z_t": encoded.z_t, "tokens": encoded.tokens, "features": encoded.features}
        arrays = {kind: _numpy(rows[kind]) for kind in self.columns}
        files.check(arrays, len(encoded.captions))
        for z in (encoded.z_i, encoded.z_t):
            if not torch.allclose(z.float().norm(dim=1), torch.ones(len(z), device=z.device), atol=1e-3):
                raise ValueError("the embeddings are not of unit norm")
        files.append(arrays, encoded.captions)


class EmbeddingsWriter:
    """Writes an embeddings folder, split by split; a split that is not complete is not seen by a reader.

    Args:
        folder: made when missing; splits that it holds already are kept.
        info: what the folder must be about; its `sizes` and `data_hash` follow from what is written.
        overwrite: begin anew in a folder that holds embeddings of another CLIP.

    Raises:
        InputError: the folder holds embeddings of another CLIP or width, or can't be written.
    """

    def __init__(self, folder: str | Path, info: EmbeddingsInfo, overwrite: bool = False) -> None:
        self.path = Path(folder).expanduser()
        self.info = info
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: name another folder")
        self.path.mkdir(parents=True, exist_ok=True)  # Now, and not after minutes of computing.
        if (self.path / MANIFEST).exists():
            there = open_embeddings(self.path).info
            changed = [
                f"{key} {getattr(there, key)}, not {getattr(info, key)}"
                for key in ("clip_fingerprint", "dim", "context", "features")
                if getattr(there, key) != getattr(info, key)
                and not (key == "clip_fingerprint" and same_clip(there.clip_fingerprint, info.clip_fingerprint))
            ]
            if changed and not overwrite:
                raise InputError(f"{self.path}: holds embeddings with {'; '.join(changed)}; {_OTHER}")
            if not changed:
                recorded = there.clip_fingerprint
                self.info = replace(info, clip_fingerprint=recorded, sizes=there.sizes, data_hash=there.data_hash)

    def holds(self, split: str, size: int, data_hash: str, overwrite: bool = False) -> bool:
        """Whether the split is there, complete and of these data.

        Raises:
            InputError: it is there with other data, and `overwrite` is off.
        """
        found = (self.info.sizes.get(check_split(split)), self.info.data_hash.get(split))
        if found == (size, data_hash):
            return True
        if found[0] is not None and not overwrite:
            theirs = f"{found[0]} rows, hash {found[1]}"
            raise InputError(
                f"{self.path}: holds {split} embeddings of other data ({theirs}) than these ({size} rows, "
                f"hash {data_hash}); {_OTHER}"
            )
        return False

    def split(
        self, split: str, size: int, data_hash: str, shard_rows: int = SHARD_ROWS, captions: bool | None = None
    ) -> SplitFiles:
        """A split to make; captions are written where pyarrow is installed unless it is said whether."""
        with_captions = has_parquet() if captions is None else captions
        return SplitFiles(self.path, split, self.info, size, data_hash, shard_rows, with_captions)

    def finish(self, files: SplitFiles) -> None:
        """Show a complete split to readers, in the place of an older one; by one process.

        Raises:
            ValueError: shards are missing.
        """
        missing = files.missing()
        if missing:
            raise ValueError(f"{files.partial}: shards {missing} are missing")
        if files.path.exists():
            self._record(files.split, None, None)  # First, so that old words never stand beside new arrays.
            shutil.rmtree(files.path)
        remove_unfinished(files.partial)
        files.partial.replace(files.path)
        self._record(files.split, files.size, files.data_hash)
        (files.path / PLAN).unlink()

    def write(self, split: str, size: int, data_hash: str, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Writes a whole split at once, without captions; what is interrupted leaves nothing behind.

        Args:
            split: "train", "val" or "test".
            size: n, number of rows.
            data_hash: of the data that were embedded.
            batches: (z_i (B, D), z_t (B, D), tokens (B, L)), in the order of the index, n rows in all.

        Raises:
            ValueError: another number of rows, another width, or embeddings that are not of unit norm.
            OSError: the folder can't be written.
        """
        files = self.split(split, size, data_hash, shard_rows=size, captions=False)
        shutil.rmtree(files.partial, ignore_errors=True)
        try:
            files.prepare()
            shard = files.shard(0)
            try:
                for z_i, z_t, tokens in batches:
                    files.append(shard, Encoded(z_i, z_t, tokens, [""] * len(z_i)))
                shard.close()
            except BaseException:
                shard.abort()
                raise
            self.finish(files)
        finally:
            shutil.rmtree(files.partial, ignore_errors=True)

    def _record(self, split: str, size: int | None, data_hash: str | None) -> None:
        sizes = {**self.info.sizes, split: size}
        hashes = {**self.info.data_hash, split: data_hash}
        self.info = replace(
            self.info,
            sizes={name: n for name, n in sizes.items() if n is not None},
            data_hash={name: text for name, text in hashes.items() if text is not None},
        )
        temporary = self.path / f".{MANIFEST}.tmp"
        temporary.write_text(json.dumps(asdict(self.info), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path / MANIFEST)


def _numpy(tensor: Tensor | None) -> np.ndarray:
    if tensor is None:
        raise ValueError("the token features are missing")
    return tensor.detach().cpu().numpy()


def _read_plan(folder: Path) -> Any:
    try:
        return json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
