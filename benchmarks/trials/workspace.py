"""A folder in which tools run `unclip` as processes, on the quickstart made small."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import machine, python_version, system
from typing import Any

from benchmarks.trials.forked import Forked
from benchmarks.trials.orphans import in_session, wait_until_gone
from benchmarks.trials.small import ROOT, write_stage

Process = subprocess.Popen[bytes] | Forked
TIMEOUT = 7200.0  # seconds; a machine may have other things to do
EMBEDDINGS = Path("runs/quickstart/embeddings")


@dataclass(frozen=True)
class Done:
    """A process that has ended.

    Attributes:
        lingering: seconds until the last process that it had started was gone too.
    """

    code: int
    out: str
    seconds: float
    lingering: float = 0.0

    @property
    def last_line(self) -> str:
        """Of what it said."""
        return (self.out.strip().splitlines() or [""])[-1]


class Workspace:
    """A folder with small configs; what is run in it leaves the clone alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("UNCLIP_")}
        paths = os.pathsep.join([str(folder), str(ROOT)])
        self.env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}

    def start(
        self,
        *words: str,
        log: str = "out.txt",
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        **options: Any,
    ) -> Process:
        """`unclip WORDS` as a process whose output goes to a file.

        With words `before` them (`unshare -m ...`) or further options of Popen, the program is loaded anew; otherwise
        the process is forked from one that has.
        """
        env = {**self.env, **(env or {})}
        path = self.folder / log
        path.unlink(missing_ok=True)
        if not before and not options:
            return Forked(list(words), self.folder, env, path)
        program = [*before, sys.executable, "-m", "experiments.cli", *words]
        with path.open("wb") as file:
            own: dict[str, Any] = {"stderr": subprocess.STDOUT, "start_new_session": True, **options}
            return subprocess.Popen(program, cwd=self.folder, env=env, stdout=file, **own)

    def run(self, *words: str, timeout: float = TIMEOUT, log: str = "out.txt", **options: Any) -> Done:
        """`unclip WORDS` to its end.

        Raises:
            RuntimeError: it left processes behind.
        """
        began = time.monotonic()
        process = self.start(*words, log=log, **options)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        seconds = time.monotonic() - began
        lingering = wait_until_gone(partial(in_session, process.pid))
        return Done(code, (self.folder / log).read_text(errors="replace"), seconds, lingering)

    def must(self, *words: str) -> Done:
        """`unclip WORDS`, which has to go well.

        Raises:
            RuntimeError: it did not.
        """
        done = self.run(*words)
        if done.code:
            raise RuntimeError(f"unclip {shlex.join(words)} left with {done.code}:\n{done.out[-2000:]}")
        return done

    def embed(self) -> None:
        """A CLIP of two steps, and its embeddings, which the other stages train on."""
        if (self.folder / EMBEDDINGS / "embeddings.json").exists():
            return
        clip = write_stage(self.folder, "clip", {"max_steps": 2}, {})
        self.must("fit", "--config", clip.name)
        data = write_stage(self.folder, "clip", {}, {})
        self.must("embed", "--config", data.name, "--clip", "runs/quickstart/clip/export", "--out", str(EMBEDDINGS))


def read_step(path: Path) -> int:
    """The step that a progress file tells; -1 before there is one."""
    try:
        return int(json.loads(path.read_text()).get("done") or 0)
    except (OSError, ValueError):
        return -1


def wait_for(condition: Callable[[], object], process: Process, seconds: float = 300) -> bool:
    """Wait until the condition holds; False when the process ended or the time is over first."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def kill(process: Process, number: int = signal.SIGKILL) -> int:
    """Send a signal and wait; returns the exit code."""
    process.send_signal(number)
    return process.wait(120)


def made_by(*words: str) -> str:
    """The line above a table: which command made it, with what."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "numpy"))
    where = f"Python {python_version()}, {versions}; {system()}, {machine()}, {os.cpu_count()} cores"
    return f"Made by `{shlex.join(['python', '-m', *words])}` ({where})."


def write_block(document: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a document.

    Raises:
        ValueError: the document has no such block.
    """
    content = document.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in content or end not in content:
        raise ValueError(f"{document} has no block {begin} ... {end}")
    head, rest = content.split(begin, 1)
    document.write_text(f"{head}{begin}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
