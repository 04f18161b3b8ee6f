"""One of the two versions of the code that are compared: its checkout, its folder of results, and the steps done."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.trials.same_numbers.server import Server

OF_THE_CODE = ("modules", "datamodules", "eval", "experiments", "unclip")
INPUTS = "inputs"
"""The run folder of the YAMLs: what training reads, made by the old version."""


@dataclass(frozen=True)
class Step:
    """One command, run by both versions.

    Attributes:
        part: of the trial, such as "train".
        name: of the step.
        words: of the command line; {checkout} stands for the version's own.
        outputs: files and folders to compare, relative to the folder of results.
        copies: (from, to): what the command reads, copied from the old version's results into the own ones.
        cwd: the folder that the command works in, relative to the folder of results.
    """

    part: str
    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    cwd: str = "."

    @property
    def file(self) -> str:
        """A name for its files."""
        return f"{self.part}-{self.name}".replace("/", "_").replace(" ", "_")


@dataclass
class Side:
    """A version of the code.

    Args:
        folder: where its results are.
        checkout: of the code; None if all results are there.
        settings: of the trial: results with other settings are made anew.
        threads: of each command.
    """

    folder: Path
    checkout: Path | None
    settings: dict[str, Any]
    threads: int = 1

    @cached_property
    def code(self) -> str:
        """A checksum of the code."""
        return code_checksum(self.checkout) if self.checkout else ""

    def record(self, step: Step) -> dict[str, Any] | None:
        """What is known of a step that has been done well with these words and settings, by this code; else None."""
        path = self.folder / "done" / f"{step.file}.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        same = content["words"] == list(step.words) and content["settings"] == self.settings
        done = self.checkout is None or (content["code"] == self.code and not content["exit code"])
        return content if same and done else None

    def do(self, step: Step, before: Side) -> dict[str, Any]:
        """Run a step unless it has been done; returns its record with the exit code.

        Raises:
            SystemExit: it has not been done, and there is no checkout to do it with.
        """
        there = self.record(step)
        if there is not None:
            return there
        if self.checkout is None:
            sys.exit(f"{self.folder} lacks {step.part} {step.name} with these settings: make it by --before CHECKOUT")
        self.clear(step, before)
        began = time.monotonic()
        code = self.server.run(self.words(step), self.folder / step.cwd, self.log(step))
        seconds = round(time.monotonic() - began, 1)
        content: dict[str, Any] = {"words": list(step.words), "settings": self.settings, "code": self.code}
        content |= {"exit code": code, "seconds": seconds}
        path = self.folder / "done" / f"{step.file}.json"
        path.write_text(json.dumps(content, indent=1))
        return content

    def clear(self, step: Step, before: Side) -> None:
        """Remove what an earlier run of the step has left, and copy what it reads.

        Raises:
            SystemExit: what it reads is not there.
        """
        for name in ("done", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "done" / f"{step.file}.json").unlink(missing_ok=True)
        for name in step.outputs:
            remove(self.folder / name)
        for source, target in step.copies:
            if not (before.folder / source).exists():
                sys.exit(f"{before.folder / source} does not exist: the part 'train' comes before {step.part!r}")
            copy(before.folder / source, self.folder / target)

    def words(self, step: Step) -> list[str]:
        """The words of its command line for this version."""
        return [word.replace("{checkout}", str(self.checkout)) for word in step.words]

    def log(self, step: Step) -> Path:
        """Where the step's output goes."""
        return self.folder / "logs" / f"{step.file}.txt"

    def last_line(self, step: Step) -> str:
        """The last line of the step's output."""
        log = self.log(step)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
        return lines[-1] if lines else ""

    @cached_property
    def server(self) -> Server:
        """The process that runs commands, started when it is first needed."""
        assert self.checkout is not None
        return Server(self.checkout, {"UNCLIP_RUN": INPUTS}, self.threads)

    def stop(self) -> None:
        """End the process that runs commands."""
        if "server" in self.__dict__:
            self.server.stop()
            del self.server


def code_checksum(checkout: Path) -> str:
    """A checksum of the code in a checkout, as it lies there."""
    digest = hashlib.sha256()
    for name in OF_THE_CODE:
        place = checkout / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(checkout)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def remove(path: Path) -> None:
    """Remove a file or folder that may be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder in the place of what is there, unless that is the same copy already."""
    if source.absolute() == target.absolute() or (target.exists() and stamps(source) == stamps(target)):
        return
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def stamps(place: Path) -> dict[str, tuple[int, int]]:
    """Relative path -> size and time of each file in a folder, or of a file."""
    files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    found = {path.relative_to(place).as_posix(): path.stat() for path in files}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
