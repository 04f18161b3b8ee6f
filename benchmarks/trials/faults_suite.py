"""Faults of a whole suite: the small quickstart, interrupted in each of its stages, killed, and run by two at once."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.trials.compare import digests
from benchmarks.trials.orphans import in_folder, wait_until_gone
from benchmarks.trials.small import write_quickstart
from benchmarks.trials.small_training import Outcome, shorten
from benchmarks.trials.workspace import Workspace, kill, wait_for
from experiments.suites.processes import held_locks
from experiments.suites.runner import LOCKS
from experiments.suites.staging import DONE, STARTED
from experiments.suites.suite import load_suite

RUN = Path("runs/quickstart")
SUITE = "experiments/quickstart/suite.yaml"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TRIES = 8
NOT_NUMBERS = ("seconds", "commit", "created", "date", "time", "machine", "host")
"""Keys of results.json that tell of the run, not of what it computed."""
SECONDS = re.compile(r"\b\d+:\d\d:\d\d\b")
"""What each stage has taken is in the tables, too."""


def reproduce(folder: Path) -> Path:
    """Runs the small quickstart in `folder` from nothing to its end; returns its run folder.

    Raises:
        RuntimeError: it did not go well.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_quickstart(folder)
    inside = Workspace(folder)
    inside.must("reproduce", SUITE, "--jobs", "1")
    wait_until_gone(partial(in_folder, folder))
    return folder / RUN


def interrupted(folder: Path, seconds: Mapping[str, float], draw: random.Random) -> tuple[list[str], list[str], Path]:
    """Runs it with an interruption in each stage, some time after it has started, by each signal in turn.

    A stage counts as interrupted when its process was there as the signal went off and the stage was not done when
    the runner had left. One that was faster runs again and gets its signal sooner, `TRIES` times.

    Args:
        folder: where.
        seconds: what each stage takes.
        draw: draws the moments.

    Returns:
        What each interruption came to ('clip SIGINT'), the stages that none came to, and the run folder.

    Raises:
        RuntimeError: the suite did not end well, or has left processes behind.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_quickstart(folder)
    workspace, run = Workspace(folder), folder / RUN
    missed = dict.fromkeys(load_suite(folder / SUITE).stages, 0)
    came: list[str] = []
    never: list[str] = []
    while missed:
        process = workspace.start("reproduce", SUITE, "--jobs", "1", log="interrupted.txt")
        wanted = wait_until_started(folder, list(missed), process)
        hit: list[str] = []
        if wanted is not None:
            time.sleep(draw.uniform(0, 0.7 * seconds[wanted] / 2 ** missed[wanted]))
            number = SIGNALS[len(came) % len(SIGNALS)]
            at_work = [path.name for path in held_locks(run / LOCKS) if path.name in seconds]
            kill(process, number)
            hit = [name for name in at_work if not (run / name / DONE).exists()]
            came += [f"{name} {number.name}" for name in hit]
        if process.wait() == 1:
            raise RuntimeError((folder / "interrupted.txt").read_text())
        wait_until_gone(partial(in_folder, folder))
        wanted = wanted or next(iter(missed))  # None of them has run: they are done.
        for name in hit:
            missed.pop(name, None)
        if wanted in missed:
            missed[wanted] += 1
            if missed[wanted] == TRIES:
                never.append(wanted)
                del missed[wanted]
            else:  # It was faster: once more, and sooner.
                (run / wanted / DONE).unlink(missing_ok=True)
    workspace.must("reproduce", SUITE, "--jobs", "1")
    return came, never, run


def durations(run: Path) -> dict[str, float]:
    """The seconds that each stage of a run has taken."""
    return {path.parent.name: float(json.loads(path.read_text())["seconds"]) for path in run.glob(f"*/{DONE}")}


def wait_until_started(folder: Path, names: list[str], process: Any) -> str | None:
    """The stage of `names` that runs, as soon as there is one; None when the runner ends without."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [name for name in names if (folder / RUN / name / STARTED).exists()]
        return bool(found)

    return found[0] if wait_for(look, process, 1200) else None


def differing_results(first: Path, second: Path) -> list[str]:
    """What differs between two runs of the suite: numbers, tables, weights and every picture."""
    found = []
    ours, theirs = (numbers(json.loads((run / "results.json").read_text())) for run in (first, second))
    if ours != theirs:
        found.append("results.json")
    tables = [SECONDS.sub("", (run / "tables.md").read_text()) for run in (first, second)]
    if tables[0] != tables[1]:
        found.append("tables.md")
    for pattern in ("*.safetensors", "*.png", "*.npy", "*.csv"):
        here, there = (
            {k: v for k, v in digests(run, pattern).items() if not k.startswith(".previous")} for run in (first, second)
        )
        found += [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    return found


def numbers(content: Any) -> Any:
    """results.json without what tells of the run itself."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key not in NOT_NUMBERS}
    return [numbers(value) for value in content] if isinstance(content, list) else content


def two_runners(folder: Path) -> Outcome:
    """A second runner while the first one is at work; then kill -9 to the first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_quickstart(folder)
    workspace = Workspace(folder)
    first = workspace.start("reproduce", SUITE, "--jobs", "1", "--only", "reference", log="first.txt")
    wait_until_started(folder, ["reference"], first)
    second = workspace.run("reproduce", SUITE, "--only", "reference")
    kill(first)
    seconds = wait_until_gone(partial(in_folder, folder))
    third = workspace.run("reproduce", SUITE, "--only", "reference")
    happened = (
        f"exit code {second.code}, `{shorten(second.last_line)}`; when the first one has been killed (SIGKILL), its "
        f"stage is gone after {seconds:.1f} s, and the same command ends with exit code {third.code}"
    )
    return Outcome(happened, second.code == 2 and f"process {first.pid} on" in second.out and third.code == 0)
