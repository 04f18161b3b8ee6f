"""`unclip reproduce SUITE.yaml`: bring a suite's stages up to date, and say what that is and why."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.display import Display
from experiments.folders import read_json, write_json
from experiments.processes import available_cores
from experiments.progress import clock
from experiments.replicas import replica, share_judges, summarise
from experiments.runner import EXIT_INTERRUPTED, Runner
from experiments.staging import Staging
from experiments.suite import Suite, load_suite
from modules.errors import InputError

LOCK = ".lock"
HOLDER = ".runner.json"


def main(argv: list[str]) -> int:
    """Run `unclip reproduce` with these words; returns an exit code."""
    options = parser().parse_args(argv)
    run = None if options.run is None else Path(options.run)
    suite = load_suite(Path(options.suite), run)
    names = suite.selected(options.only)
    suite.selected(options.again)  # refuses names of no stage
    for seed in range(options.seeds):
        copy = replica(suite, seed)
        if options.dry_run:
            print(dry_run(Staging(copy, tuple(options.again)), names))
            continue
        share_judges(suite, copy)
        code = run_suite(copy, names, options)
        if code:
            return code
    if options.seeds > 1 and not options.dry_run:
        from experiments.evaluate import show

        for table in summarise(suite, options.seeds):
            show(table)
        print(f"over seeds: {suite.run / 'seeds.md'}")
    return 0


def run_suite(suite: Suite, names: list[str], options: argparse.Namespace) -> int:
    """Brings one replica of a suite up to date; returns the exit code."""
    cores = available_cores()
    jobs = options.jobs or cores
    with exclusive(suite.run):
        runner = Runner(Staging(suite, tuple(options.again)), names, jobs, max(1, cores // jobs))
        began = time.monotonic()
        with Display(len(names)) as display:
            code = runner.run(display)
        print(summary(runner, time.monotonic() - began, code))
    return code


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="unclip reproduce", description="Run a suite's stages; see its YAML.")
    parser.add_argument("suite", metavar="SUITE.yaml", help="the list of stages")
    parser.add_argument("--run", metavar="DIR", help="the run folder (default: the suite's own)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why, and run nothing")
    parser.add_argument("--jobs", type=positive, metavar="N", help="stages side by side (default: one for each core)")
    parser.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="train and evaluate N replicas (RUN/seeds/1, ...) and write mean and interval over training seeds",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE",
        help="only this stage and what it needs; may be repeated",
    )
    parser.add_argument(
        "--again", action="append", default=[], metavar="STAGE", help="run this stage anew; may be repeated"
    )
    return parser


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def dry_run(staging: Staging, names: list[str]) -> str:
    """What would run, and why."""
    plan = staging.plan(names)
    words = {"skip": "", "maybe": "", "run": "would run: ", "resume": "would go on: "}
    count = sum(decision.action in ("run", "resume") for decision in plan.values())
    width = max(map(len, names), default=0)
    lines = [f"  {name:{width}}  {words[decision.action]}{decision.reason}" for name, decision in plan.items()]
    head = f"{staging.suite.path}, run folder {staging.suite.run}: {len(names)} stages, {count} would run"
    return "\n".join([head, *lines])


def summary(runner: Runner, seconds: float, code: int) -> str:
    """What was done, and how long each stage took."""
    width = max(map(len, runner.names), default=0)
    lines = []
    for name in runner.names:
        state = "now" if name in runner.ran else "up to date" if name in runner.done else "not done"
        state = "FAILED" if name in runner.failed else state
        lines.append(
            f"  {name:{width}}  {runner.done[name]:8.1f} s  {state}"
            if name in runner.done
            else f"  {name:{width}}  {state:>10}"
        )
    if code == EXIT_INTERRUPTED:
        end = "interrupted; the same command goes on from here"
    else:
        end = (
            f"failed: {', '.join(runner.failed)}; the same command tries again" if code else "all stages are up to date"
        )
    return "\n".join([*lines, f"{end} ({clock(seconds)}, {seconds:.0f} s, run folder {runner.staging.suite.run})"])


@contextlib.contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Hold the run folder, so that two runners do not write into it at once.

    Raises:
        InputError: another runner holds it; the message says which.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(run / LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = read_json(run / HOLDER) or {}
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
        raise InputError(
            f"run folder {str(run)!r} is in use by {who}; wait for it, end it, or choose another --run"
        ) from None
    try:
        since = datetime.now().isoformat(sep=" ", timespec="seconds")
        write_json(
            run / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": sys.argv}
        )
        yield
    finally:
        (run / HOLDER).unlink(missing_ok=True)
        lock.release()
