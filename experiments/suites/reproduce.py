"""`unclip reproduce SUITE.yaml`: bring a suite's stages up to date, and say what that is and why."""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager
from pathlib import Path

from experiments.console.errors import say
from experiments.console.progress import clock
from experiments.storage.holding import LOCK, holding
from experiments.suites.display import Display
from experiments.suites.emit import script
from experiments.suites.processes import available_cores, held_locks
from experiments.suites.replicas import replica, share_judges, summarise
from experiments.suites.runner import EXITS_INTERRUPTED, LOCKS, Runner
from experiments.suites.staging import Staging
from experiments.suites.suite import Suite, find_suite, load_suite
from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip reproduce`; returns the exit code."""
    run = None if options.run is None else Path(options.run)
    suite = load_suite(find_suite(options.suite), run)
    names = suite.selected(options.only)
    suite.selected(options.again)  # refuses names of no stage
    if (options.emit or options.stage is not None) and options.seeds > 1:
        raise InputError("--emit and --stage are for one run: give each replica a --run of its own, not --seeds")
    if options.stage is not None:
        if options.only:
            raise InputError("--stage is one stage, --only are some and what they need: choose one of them")
        names = suite.selected([options.stage])  # refuses the name of no stage
    if options.emit:
        if options.again or options.dry_run or options.devices or options.jobs:
            raise InputError("--emit runs nothing: --again, --dry-run, --devices and --jobs do not go with it")
        print(script(suite, names if options.stage is None else names[-1:], options.emit), end="")
        return 0
    if options.stage is not None and not options.dry_run:
        return run_stage(suite, options)
    for seed in range(options.seeds):
        copy = replica(suite, seed)
        again = tuple(name for name in options.again if seed == 0 or suite.stages[name].replicate)
        if options.dry_run:
            say(dry_run(Staging(copy, again), names))
            continue
        share_judges(suite, copy)
        code = run_suite(copy, names, options, again)
        if code:
            return code
        page = copy.run / "report.html"
        if page.exists():
            print(f"open {page}")
    if options.seeds > 1 and not options.dry_run:
        from experiments.console.show import show

        tables = summarise(suite, options.seeds)
        for table in tables:
            show(table)
        said = "no stage `unclip evaluate` and no sweep, so that nothing is put together here"
        print(f"over seeds: {suite.run / 'seeds*.md' if tables else said}")
    return 0


def run_suite(suite: Suite, names: list[str], options: argparse.Namespace, again: tuple[str, ...]) -> int:
    """Brings one replica of a suite up to date, with the stages `again` run anew; returns the exit code."""
    cores = available_cores()
    devices = tuple(options.devices)
    jobs = options.jobs or len(devices) or cores
    jobs = min(jobs, len(devices) or jobs)
    with hold(suite.run, options.wait):
        return run_runner(Runner(Staging(suite, again), names, jobs, max(1, cores // jobs), devices, fork=options.fork))


def run_stage(suite: Suite, options: argparse.Namespace) -> int:
    """Brings one stage up to date; returns the exit code. Other stages of the run may be running meanwhile.

    Raises:
        InputError: there is no such stage, another process is running it, or what it needs is not up to date.
    """
    *needs, name = suite.selected([options.stage])
    own = suite.run / LOCKS / f"{name}.stage"
    subject = f"stage {name!r} in run folder {str(suite.run)!r}"
    with (
        hold(suite.run, options.wait, shared=True),
        holding(own, subject, "wait for it (--wait) or end it", wait=options.wait),
    ):
        staging = Staging(suite, tuple(options.again))
        for need in needs:
            decision = staging.decide(need)
            if decision.action != "skip":
                raise InputError(f"stage {name!r} needs {need!r}, which is not up to date ({decision.reason})")
        done = dict.fromkeys(needs, 0.0)
        return run_runner(Runner(staging, [name], 1, available_cores(), tuple(options.devices[:1]), done))


def run_runner(runner: Runner) -> int:
    """Runs it, says what was done, and returns the exit code."""
    began = time.monotonic()
    with Display(len(runner.names)) as display:
        code = runner.run(display)
    print(summary(runner, time.monotonic() - began, code))
    return code


def dry_run(staging: Staging, names: list[str]) -> str:
    """Print what would run, and why."""
    plan = staging.plan(names)
    words = {"skip": "", "maybe": "", "run": "would run: ", "resume": "would go on: "}
    count = sum(decision.action in ("run", "resume") for decision in plan.values())
    width = max(map(len, names), default=0)
    lines = [f"  {name:{width}}  {words[decision.action]}{decision.reason}" for name, decision in plan.items()]
    head = f"{staging.suite.path}, run folder {staging.suite.run}: {len(names)} stages, {count} would run"
    return "\n".join([head, *lines])


def summary(runner: Runner, seconds: float, code: int) -> str:
    """The lines at the end: the result of each stage, and how long it took."""
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
    if code in EXITS_INTERRUPTED:
        end = "interrupted; the same command goes on from here"
    else:
        end = (
            f"failed: {', '.join(runner.failed)}; the same command tries again" if code else "all stages are up to date"
        )
    return "\n".join([*lines, f"{end} ({clock(seconds)}, {seconds:.0f} s, run folder {runner.staging.suite.run})"])


def hold(run: Path, wait: bool, shared: bool = False) -> AbstractContextManager[None]:
    """Hold the run folder, so that two runners do not write into it at once; `shared` with other single stages.

    Raises:
        InputError: another runner holds it; the message says which.
    """
    return holding(
        run / LOCK,
        f"run folder {str(run)!r}",
        "wait for it (--wait), end it, or choose another --run",
        shared=shared,
        wait=wait,
        sharers=lambda: held_locks(run / LOCKS),
    )
