"""Writing an embeddings folder: each split is there whole or not at all.

It is made by `datamodules.embeddings.split`. When all its shards are there its folder is renamed, and embeddings.json
names the split.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.base import check_split
from datamodules.embeddings.checks import checksums
from datamodules.embeddings.folder import MANIFEST, VERSION, EmbeddingsInfo, open_embeddings
from datamodules.embeddings.shards import has_parquet, remove_unfinished
from datamodules.embeddings.split import PLAN, SHARD_ROWS, Encoded, SplitFiles, differences
from datamodules.writing import check_whole, show_split
from modules.errors import InputError
from modules.untrusted.writing import clear_way

_OTHER = "name another folder or pass --overwrite"
_OF_THE_FOLDER = ("clip_fingerprint", "dim", "context", "features")
_OF_THE_SPLITS = ("sizes", "data_hash", "settings", "replaced", "checksums")


class EmbeddingsWriter:
    """Writes an embeddings folder, split by split; a split that is not complete is not seen by a reader.

    Args:
        folder: made when missing; splits that it holds already are kept.
        info: what the folder must be about; its `sizes` and `data_hash` follow from what is written.
        overwrite: begin anew in a folder that holds embeddings of another CLIP.
        settings: what else decides the numbers (image size, precision, ...), recorded for every split.

    Raises:
        InputError: the folder holds embeddings of another CLIP or width, or can't be written.
    """

    def __init__(
        self,
        folder: str | Path,
        info: EmbeddingsInfo,
        overwrite: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(folder).expanduser()
        self.info, self.overwrite, self.settings = info, overwrite, dict(settings or {})
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: name another folder")
        self.path.mkdir(parents=True, exist_ok=True)  # Now, and not after minutes of computing.
        changed = self._adopt()
        if changed and not overwrite:
            raise InputError(f"{self.path}: holds embeddings with {changed}; {_OTHER}")

    def _adopt(self) -> str:
        """Take over the records of the splits that are there. Of another CLIP's, take none and say how it differs."""
        if not (self.path / MANIFEST).exists():
            return ""
        there = open_embeddings(self.path).info
        changed = differences(*({key: getattr(info, key) for key in _OF_THE_FOLDER} for info in (there, self.info)))
        if not changed:
            kept: dict[str, Any] = {key: getattr(there, key) for key in ("clip_fingerprint", *_OF_THE_SPLITS)}
            # Older folders record settings once, for the split that was written last.
            last = {key: there.source[key] for key in ("image_size", "precision") if key in there.source}
            kept["settings"] = {split: there.settings.get(split, last) for split in there.sizes}
            self.info = replace(self.info, **kept)
        return changed

    def holds(self, split: str, size: int, data_hash: str, overwrite: bool = False) -> bool:
        """Whether the split is there, complete, of these data and made with these settings.

        Raises:
            InputError: it is there with other data or settings, and `overwrite` is off.
        """
        found = (self.info.sizes.get(check_split(split)), self.info.data_hash.get(split))
        changed = differences(self.info.settings.get(split, {}), self.settings)
        if found == (size, data_hash):
            if changed and not overwrite:
                raise InputError(f"{self.path}: holds {split} embeddings made with {changed}; {_OTHER}")
            return not changed
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
        """A split to make. With captions None, captions are written if pyarrow is installed."""
        with_captions = has_parquet() if captions is None else captions
        return SplitFiles(
            self.path, split, self.info, size, data_hash, shard_rows, with_captions, self.settings, self.overwrite
        )

    def finish(self, files: SplitFiles) -> None:
        """Show a complete split to readers, in the place of an older one; by one process.

        Raises:
            ValueError: shards are missing.
        """
        check_whole(files)
        replaced = len(files.replaced())
        remove_unfinished(files.partial)
        show_split(files, lambda: self._record(files.split), lambda: self._record(files.split, files, replaced))
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

    def _record(self, split: str, files: SplitFiles | None = None, replaced: int = 0) -> None:
        """Write the record of a split into embeddings.json; without `files`, remove it."""
        now = (
            {}
            if files is None
            else {
                "sizes": files.size,
                "data_hash": files.data_hash,
                "settings": files.settings,
                "replaced": replaced,
                "checksums": checksums(files.path),
            }
        )
        self._adopt()  # Other processes may have written the earlier splits.
        changed: dict[str, Any] = {}
        for key in _OF_THE_SPLITS:
            others = {name: value for name, value in getattr(self.info, key).items() if name != split}
            changed[key] = {**others, split: now[key]} if now.get(key) else others
        whole = changed["sizes"].keys() <= changed["checksums"].keys()  # Not, beside splits of an earlier version.
        self.info = replace(self.info, **changed, version=VERSION if whole else 0)
        temporary = self.path / f".{MANIFEST}.tmp"
        clear_way(temporary)
        temporary.write_text(json.dumps(asdict(self.info), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path / MANIFEST)
