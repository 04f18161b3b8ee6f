"""An unfinished sample folder: several processes write it, it survives kills, and it is renamed when complete."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from eval.errors import InputError
from eval.files import move_into_place, writing
from eval.samples.folder import SampleFolder, captions_shown, require_writable, write_image, write_index
from eval.samples.grid import to_pil
from eval.samples.manifest import parse_record
from eval.samples.pictures import read_picture
from eval.untrusted import MAX_PICTURE, MAX_TABLE, WITHOUT_LOCKS, read_bytes, require_inside, warn_without_locks

# All of these may lie in a sample folder (see SIDECARS), so that a kill after the last step but one does no harm.
REQUEST, LOCK, SHARDS = "request.json", "lock.txt", "shard-*.jsonl"
KEPT = "shard-kept.jsonl"
NAME = r"(\d{5,18})\.png"
"""Of a picture, as `write_image` names it."""


class Shards:
    """The folder .NAME.sampling beside the sample folder NAME that it becomes.

    Every writer has a file of manifest lines of its own (a shard), to which it adds after the pictures that the lines
    are of. A picture is finished when its line is there and its file has the line's checksum: whoever is killed at
    whatever moment, what counts as finished is whole.

    Args:
        target: the sample folder.
    """

    def __init__(self, target: str | Path) -> None:
        self.target = Path(target).absolute()
        self.path = self.target.with_name(f".{self.target.name}.sampling")
        self._own: Path | None = None

    @contextmanager
    def started(self, request: Mapping[str, Any], overwrite: bool = False, resume: bool = False) -> Iterator[int]:
        """Holds the folder for one run (its other processes write too, and need not call this).

        Args:
            request: all that decides the pictures, JSON-able. Pictures of another request are never gone on with.
            overwrite: replace a sample folder that is there; without `resume`, drop unfinished pictures as well.
            resume: go on with unfinished pictures of this request in spite of `overwrite`.

        Yields:
            How many pictures an earlier run has finished.

        Raises:
            InputError: see `require_writable`; another process is at it; or there are unfinished pictures of another
                request and `overwrite` is off.
        """
        require_writable(self.target, overwrite)
        with writing(self.target):
            self.path.mkdir(parents=True, exist_ok=True)
            for entry in self.path.iterdir():
                if entry.is_symlink():  # Of a stranger's: what is written here would go elsewhere.
                    entry.unlink()
            lock = FileLock(str(self.path / LOCK))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.target} is being written by another process; wait for it, or choose another folder"
                ) from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                warn_without_locks()
        try:
            yield self._take_up(json.loads(json.dumps(dict(request), default=str)), overwrite, resume)
        finally:
            lock.release()
            if self.path.exists() and not self.lines():
                shutil.rmtree(self.path, ignore_errors=True)

    def _take_up(self, request: dict[str, Any], overwrite: bool, resume: bool) -> int:
        """Keeps the pictures that the command may go on with, and drops the others."""
        with writing(self.target):
            there = self._request()
            if there == request and (resume or not overwrite):
                return self._keep_whole()
            count = len(self.lines())
            if count and not overwrite:
                changed = sorted(key for key in {**there, **request} if there.get(key) != request.get(key))
                raise InputError(
                    f"{self.target} was left unfinished, with {count} pictures, by a command with another"
                    f" {', '.join(changed)}: repeat that command to go on, pass --overwrite to drop them, or choose"
                    " another folder"
                )
            for entry in self.path.iterdir():
                if entry.name != LOCK:
                    entry.unlink()
            (self.path / REQUEST).write_text(json.dumps(request, indent=1, ensure_ascii=False), encoding="utf-8")
            return 0

    def _request(self) -> dict[str, Any]:
        try:
            content = json.loads(read_bytes(self.path / REQUEST))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _keep_whole(self) -> int:
        """Puts the lines of pictures that are whole into one shard."""
        whole = {k: line for k, line in self.lines().items() if self._is_whole(line)}
        beside = self.path / f".{KEPT}"
        beside.write_text("".join(whole.values()), encoding="utf-8")
        beside.replace(self.path / KEPT)
        for shard in self.path.glob(SHARDS):
            if shard.name != KEPT:
                shard.unlink()
        return len(whole)

    def _is_whole(self, line: str) -> bool:
        record = json.loads(line)
        try:
            content = read_bytes(require_inside(self.path, record["file"]), MAX_PICTURE)
        except (OSError, InputError):
            return False
        return hashlib.sha256(content).hexdigest() == record.get("sha256")

    def lines(self) -> dict[int, str]:
        """The manifest lines so far, by the number of their picture.

        A line that a kill has cut is left out, and so is one that `write_image` does not write.
        """
        found: dict[int, str] = {}
        for shard in sorted(self.path.glob(SHARDS)):
            for line in read_bytes(shard, MAX_TABLE).decode("utf-8", "replace").split("\n")[:-1]:
                with suppress(InputError):
                    name = re.fullmatch(NAME, parse_record(shard.name, line)["file"])
                    found |= {int(name[1]): line + "\n"} if name else {}
        return found

    def write(self, writer: int, numbers: Sequence[int], images: Tensor, records: Sequence[dict[str, Any]]) -> None:
        """Writes pictures, and then their lines into the writer's shard.

        Args:
            writer: a number of this process among those that write.
            numbers: of the pictures, from 0; they decide the names of the files and the order of the manifest.
            images: uint8 (B, 3, H, W).
            records: B manifest lines, as for `write_samples`.

        Raises:
            InputError: a full disk.
        """
        with writing(self.target):
            if self._own is None:
                self._own = self.path / f"shard-{writer}-{uuid.uuid4().hex[:8]}.jsonl"
            pictures = map(to_pil, images)
            lines = [write_image(self.path, *each) for each in zip(numbers, pictures, records, strict=True)]
            with self._own.open("a", encoding="utf-8") as shard:
                shard.write("".join(lines))

    def finish(self, count: int, overwrite: bool = False) -> SampleFolder:
        """Makes the sample folder of `count` pictures, and puts it into its place.

        Raises:
            InputError: some pictures are not finished; see also `require_writable`.
        """
        lines = self.lines()
        if len(lines) < count:
            raise InputError(
                f"{count - len(lines)} of {count} pictures of {self.target} are missing, a process that draws them has"
                " ended early; the same command with --resume draws them"
            )
        require_writable(self.target, overwrite)
        ordered = [lines[k] for k in range(count)]
        with writing(self.target):
            records = [json.loads(line) for line in ordered]
            shown = captions_shown(records)
            chosen = [record for record in records if record["caption_index"] in shown]
            write_index(self.path, ordered, [self._picture(record) for record in chosen], chosen)
            for leftover in self.path.glob(".*"):
                leftover.unlink()
            move_into_place(self.path, self.target)
            for own in (REQUEST, LOCK, *(path.name for path in self.target.glob(SHARDS))):
                (self.target / own).unlink(missing_ok=True)
        return SampleFolder.open(self.target)

    def _picture(self, record: dict[str, Any]) -> Image.Image:
        place = self.path / record["file"]
        return read_picture(place, place)
