"""Writing a folder of captions: shard by shard, by one process or several, resumable; a split is there when whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.base import check_split
from datamodules.captioned.folder import MANIFEST, CaptionsInfo, open_captions
from datamodules.captions import CaptionFault, clean
from datamodules.writing import check_whole, show_split
from modules.errors import InputError
from modules.untrusted.writing import clear_way

PLAN = "plan.json"
MAX_WORDS = 256


@dataclass(frozen=True)
class Written:
    """A captioner's captions for B pairs.

    Attributes:
        captions: B strings.
        index: numbers of the pairs; None if row i holds pair i throughout.
    """

    captions: Sequence[str]
    index: Sequence[int] | None = None


class CaptionShard:
    """A shard while it is written, of the pairs `rows`: a file gets its name when it is complete."""

    def __init__(self, path: Path, rows: range) -> None:
        self.path, self.rows, self.lines = path, rows, list[str]()

    def close(self) -> None:
        """Show the shard.

        Raises:
            ValueError: it lacks captions.
        """
        if len(self.lines) != len(self.rows):
            raise ValueError(f"{self.path}: {len(self.lines)} captions of {len(self.rows)}")
        temporary = self.path.with_suffix(".tmp")
        clear_way(temporary)
        temporary.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        temporary.replace(self.path)

    def abort(self) -> None:
        """Nothing of it has been written yet."""


class CaptionFiles:
    """One split in the making; its shards lie in FOLDER/.SPLIT.partial beside plan.json, which says what they are of.

    Args:
        folder: of the captions.
        split: "train", "val" or "test".
        info: what is written.
        size: pairs of the split.
        pictures: hash of the pairs.
        shard_rows: captions of a shard.
    """

    def __init__(self, folder: Path, split: str, info: CaptionsInfo, size: int, pictures: str, shard_rows: int) -> None:
        self.path, self.partial, self.split = folder / check_split(split), folder / f".{split}.partial", split
        self.ranges = [range(first, min(first + shard_rows, size)) for first in range(0, size, shard_rows)]
        self.size, self.pictures = size, pictures
        made_of = {"captioner": info.captioner, "settings": info.settings}
        self._plan: dict[str, Any] = {**made_of, "size": size, "pictures": pictures, "shard_rows": shard_rows}

    def prepare(self) -> None:
        """Make ready for shards, keeping those of an earlier run of the same plan; by one process, first."""
        try:
            same = json.loads((self.partial / PLAN).read_text(encoding="utf-8")) == self._plan
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            (self.partial / PLAN).write_text(json.dumps(self._plan) + "\n", encoding="utf-8")

    def missing(self) -> list[int]:
        """The numbers of the shards that are still to be made."""
        return [number for number in range(len(self.ranges)) if not self._place(number).is_file()]

    def shard(self, number: int) -> CaptionShard:
        """Begin to write a shard."""
        return CaptionShard(self._place(number), self.ranges[number])

    def append(self, shard: CaptionShard, written: Written) -> None:
        """Add captions to a shard, each as one line.

        A text that cannot be a caption becomes an empty one. So does the caption of a pair whose picture cannot be
        read: the captioner was shown the picture of another pair in its place.
        """
        first = shard.rows.start + len(shard.lines)
        own = range(first, first + len(written.captions))
        pairs = own if written.index is None else written.index
        shard.lines += [
            _line(caption) if row == pair else ""
            for caption, row, pair in zip(written.captions, own, pairs, strict=True)
        ]

    def _place(self, number: int) -> Path:
        return self.partial / f"{number:05d}.txt"


def _line(caption: str) -> str:
    try:
        return clean(caption, MAX_WORDS)
    except CaptionFault:
        return ""


class CaptionsWriter:
    """Writes a folder of captions, split by split.

    Args:
        folder: made when missing; splits that it holds of the same captioner are kept.
        info: who writes, with what settings.
        overwrite: begin anew in a folder that another captioner wrote, or of other pairs.

    Raises:
        InputError: the folder is of another captioner or other settings, and `overwrite` is off; or it is a file.
    """

    def __init__(self, folder: str | Path, info: CaptionsInfo, overwrite: bool = False) -> None:
        self.path, self.info, self.overwrite = Path(folder).expanduser(), info, overwrite
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: name another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / MANIFEST).exists():
            there = open_captions(self.path)
            if (there.captioner, there.settings) == (info.captioner, info.settings):
                self.info = there
            elif not overwrite:
                raise InputError(
                    f"{self.path}: holds captions of another captioner or other settings; name another folder or pass "
                    "--overwrite"
                )

    def holds(self, split: str, size: int, pictures: str) -> bool:
        """Whether the split is there, complete and of these pairs.

        Raises:
            InputError: it is there with other pairs, and `overwrite` is off.
        """
        found = (self.info.sizes.get(check_split(split)), self.info.pictures.get(split))
        if found == (size, pictures):
            return True
        if found[0] is not None and not self.overwrite:
            raise InputError(
                f"{self.path}: holds {split} captions of other pairs ({found[0]}) than these ({size}); name another "
                "folder or pass --overwrite"
            )
        return False

    def split(self, split: str, size: int, pictures: str, shard_rows: int) -> CaptionFiles:
        """A split to make."""
        return CaptionFiles(self.path, split, self.info, size, pictures, shard_rows)

    def finish(self, files: CaptionFiles) -> None:
        """Show a complete split to readers, in the place of an older one; by one process.

        Raises:
            ValueError: shards are missing.
        """
        check_whole(files)
        show_split(files, lambda: self._record(files.split), lambda: self._record(files.split, files))
        (files.path / PLAN).unlink()

    def _record(self, split: str, files: CaptionFiles | None = None) -> None:
        sizes = {name: size for name, size in self.info.sizes.items() if name != split}
        pictures = {name: value for name, value in self.info.pictures.items() if name != split}
        if files is not None:
            sizes[split], pictures[split] = files.size, files.pictures
        self.info = replace(self.info, sizes=sizes, pictures=pictures)
        temporary = self.path / f".{MANIFEST}.tmp"
        clear_way(temporary)
        temporary.write_text(json.dumps(asdict(self.info), indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path / MANIFEST)
