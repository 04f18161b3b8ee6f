"""Runs the stages of a suite side by side, in the order of what they need, the longest chain first."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.console.progress import FILE_VARIABLE, clock
from experiments.console.signals import EXIT_REQUEUE, exit_code
from experiments.storage.folders import write_json
from experiments.suites.display import Display, Line
from experiments.suites.forkable import forkable, imports_of
from experiments.suites.forking import ForkedStage, ForkServer
from experiments.suites.processes import StageProcess, StartedStage, environment, stop_all
from experiments.suites.staging import DONE, LOG, PROGRESS, STARTED, Decision, Staging, read_record
from modules.untrusted.writing import open_to_append

RUN_VARIABLE = "UNCLIP_RUN"
DEVICE_VARIABLE = "CUDA_VISIBLE_DEVICES"
LOCKS = ".locks"
POLL_SECONDS = 0.1
FAILED_LINES = 15
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXITS_INTERRUPTED = (EXIT_INTERRUPTED, EXIT_REQUEUE)


@dataclass
class Running:
    """A stage that is running."""

    process: StartedStage
    line: Line
    record: dict[str, Any]
    device: str | None

    @property
    def seconds(self) -> float:
        """Seconds of this and of interrupted runs."""
        return float(self.record["seconds"]) + time.monotonic() - self.line.started


@dataclass
class Runner:
    """One call of `unclip reproduce`.

    Args:
        staging: the suite and the state of its run folder.
        names: stages to bring up to date, in an order that respects what they need.
        jobs: stages side by side.
        threads: threads of each; a stage that takes several cores counts, and has threads, as that many.
        devices: one for each of the stages side by side, as CUDA_VISIBLE_DEVICES has them; none leaves it alone.
        fork: whether stages may be forked from a process that has imported what they need.
    """

    staging: Staging
    names: list[str]
    jobs: int
    threads: int
    devices: tuple[str, ...] = ()
    done: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage that is done; of those that were up to date too."""
    ran: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    fork: bool = True
    _server: ForkServer | None = None
    _signals: int = 0
    _left_with: int = EXIT_INTERRUPTED

    def run(self, display: Display) -> int:
        """Run what has to be run.

        Returns:
            An exit code: 0, 1 when a stage failed, 130 when interrupted, 75 when a scheduler's signal has come, to this
            process or to a stage.
        """
        with self._signals_caught():
            try:
                while not self._signals and self._advance(display):
                    display.show([running.line for running in self.running.values()])
                    time.sleep(POLL_SECONDS)
            finally:
                # Also when the runner itself fails: no stage is left running.
                self._stop(display)
                if self._server:
                    self._server.close()
        if self._signals:
            return self._left_with
        return EXIT_FAILED if self.failed else 0

    def _advance(self, display: Display) -> bool:
        """Settle what has ended, start what can be; False when there is nothing left to do."""
        for name in [name for name, running in self.running.items() if running.process.code is not None]:
            self._settle(name, display)
        while not self.failed and not self._signals and self._taken() < self.jobs and (ready := self._next()):
            decision = self.staging.decide(ready)
            if decision.action == "skip":
                self._skip(ready, display)
            elif self._taken() + self._places(ready) > self.jobs:
                break  # the longest chain goes on first, when there is room for its stage
            else:
                self._start(ready, decision, display)
        if self._signals:
            return True  # a stage has been asked to stop by the system; so do the others
        return bool(self.running) or (not self.failed and any(name not in self.done for name in self.names))

    def _places(self, name: str) -> int:
        """How many of the `jobs` places a stage takes."""
        return 1 if self.devices else min(self.staging.suite.stages[name].cores, self.jobs)

    def _taken(self) -> int:
        return sum(map(self._places, self.running))

    def _threads(self, name: str) -> int:
        return self.threads * self._places(name)

    def _next(self) -> str | None:
        stages, minutes = self.staging.suite.stages, self.staging.suite.chain_minutes()
        waiting = [name for name in self.names if name not in self.done and name not in self.running]
        ready = [name for name in waiting if all(need in self.done for need in stages[name].needs)]
        return max(ready, key=lambda name: minutes[name], default=None)

    def _skip(self, name: str, display: Display) -> None:
        record = self.staging.record(name) or {}
        self.done[name] = float(record.get("seconds", 0))
        display.say(f"{self._numbered(name)} up to date")
        self._show_output(name, display)

    def _start(self, name: str, decision: Decision, display: Display) -> None:
        stage, suite, folder = self.staging.suite.stages[name], self.staging.suite, self.staging.folder(name)
        words, text, seconds = stage.words(suite.run), stage.text(suite.run), 0.0
        self.staging.sweep(name)
        if decision.action == "resume":
            seconds = interrupted_seconds(folder)
            extra = stage.resume_words()
            words += extra or []
            text = " ".join([text, *(shlex.quote(word) for word in extra or [])])
            if extra is None:
                self.staging.clear_outputs(name)
        else:
            self.staging.clear(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        device = self._free_device()
        shown = {} if suite.run == suite.default_run else {RUN_VARIABLE: str(suite.run)}
        own = {} if device is None else {DEVICE_VARIABLE: device}
        settings = {"OMP_NUM_THREADS": str(self._threads(name)), **own, **shown}
        command = " ".join([*(f"{key}={shlex.quote(value)}" for key, value in settings.items()), text])
        display.say(f"{self._numbered(name)} {decision.reason}\n  {command}")
        record = self._record(name, command, seconds)
        write_json(folder / STARTED, record)
        with open_to_append(folder / LOG) as log:
            log.write(f"$ {command}\n".encode())
        shared = {RUN_VARIABLE: str(suite.run), FILE_VARIABLE: str(folder / PROGRESS), **own}
        env = environment(self._threads(name), shared)
        process = self._process(name, words, env)
        line = Line(name, self._number(name), time.monotonic(), folder / PROGRESS)
        self.running[name] = Running(process, line, record, device)

    def _process(self, name: str, words: list[str], env: dict[str, str]) -> StartedStage:
        run, log = self.staging.suite.run, self.staging.folder(name) / LOG
        if self.fork and self._server is None and len(forked := self._to_fork()) > 1:
            stages = [self.staging.suite.stages[other] for other in forked]
            self._server = ForkServer(environment(self.threads, {}), imports_of(stages, run))
        if self._server and self._server.alive and forkable(self.staging.suite.stages[name], run):
            return ForkedStage(self._server, words, env, log, run / LOCKS / name)
        return StageProcess(words, env, log, run / LOCKS / name)

    def _to_fork(self) -> list[str]:
        """The stages that are left to run and can be forked."""
        suite = self.staging.suite
        left = [name for name in self.names if name not in self.done and forkable(suite.stages[name], suite.run)]
        if len(left) < 2:
            return []
        plan = self.staging.plan(self.names)
        return [name for name in left if plan[name].action != "skip"]

    def _free_device(self) -> str | None:
        taken = [running.device for running in self.running.values()]
        return next((device for device in self.devices if device not in taken), None)

    def _record(self, name: str, command: str, seconds: float) -> dict[str, Any]:
        recipe = self.staging.recipes[name]
        return {
            "name": name,
            "status": "started",
            "hash": recipe.hash,
            "command": command,
            "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "seconds": seconds,
            "config_files": sorted(recipe.files),
            "needs": self.staging.fingerprints(name),
            "recipe": {"command": recipe.command, "files": recipe.files, "needs": recipe.needs},
            "threads": self._threads(name),
        }

    def _settle(self, name: str, display: Display) -> None:
        running, folder = self.running.pop(name), self.staging.folder(name)
        code, seconds = running.process.code, running.seconds
        record = {**running.record, "seconds": round(seconds, 2)}
        missing = [str(path) for path in self.staging.outputs(name) if not path.exists()]
        if code == 0 and not missing:
            fingerprint = self.staging.fingerprint(name)
            write_json(folder / DONE, {**record, "status": "done", "fingerprint": fingerprint})
            (folder / STARTED).unlink(missing_ok=True)
            self.done[name] = seconds
            self.ran.append(name)
            display.say(f"{self._numbered(name)} done in {clock(seconds)}")
            self._show_output(name, display)
            return
        if code == EXIT_REQUEUE and not self._signals:
            self._signals, self._left_with = 1, EXIT_REQUEUE
            display.say(f"{self._numbered(name)} was asked to stop by the system")
        write_json(folder / STARTED, {**record, "status": "interrupted" if self._signals else "failed"})
        if not self._signals:
            self.failed.append(name)
            reason = f"exit code {code}" if code else f"it left no {', '.join(missing)}"
            display.say(f"{self._numbered(name)} FAILED ({reason}); the end of {folder / LOG}:\n{tail(folder / LOG)}")
            if self.running:
                display.say(f"  letting {', '.join(self.running)} finish; Ctrl-C stops")

    def _stop(self, display: Display) -> None:
        if not self.running:
            return
        display.say(f"stopping {', '.join(self.running)}: each saves what it has; Ctrl-C once more kills them")
        lines = [running.line for running in self.running.values()]
        before = self._signals
        processes = [running.process for running in self.running.values()]
        stop_all(processes, hurry=lambda: self._signals > max(before, 1), tick=lambda: display.show(lines))
        for name in list(self.running):
            self._settle(name, display)

    def _show_output(self, name: str, display: Display) -> None:
        if self.staging.suite.stages[name].show:
            with contextlib.suppress(OSError):
                text = (self.staging.folder(name) / LOG).read_text(encoding="utf-8", errors="replace")
                display.say("\n".join(line for line in text.splitlines() if not line.startswith("$ ")))

    def _number(self, name: str) -> int:
        return self.names.index(name) + 1

    def _numbered(self, name: str) -> str:
        return f"[{self._number(name)}/{len(self.names)}] {name}:"

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        def receive(number: int, frame: FrameType | None) -> None:
            self._signals += 1
            self._left_with = EXIT_INTERRUPTED if number == signal.SIGHUP else exit_code(number)

        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        before = [signal.signal(number, receive) for number in caught]
        try:
            yield
        finally:
            for number, handler in zip(caught, before, strict=True):
                signal.signal(number, handler)


def interrupted_seconds(folder: Path) -> float:
    """Seconds that an interrupted stage has taken so far: as recorded, or, after a kill, until its log's last line."""
    record = read_record(folder / STARTED) or {}
    seconds = float(record.get("seconds", 0))
    if record.get("status") != "started":
        return seconds
    with contextlib.suppress(OSError, ValueError, KeyError):
        start = datetime.fromisoformat(record["started"]).timestamp()
        seconds += max(0.0, max((folder / name).stat().st_mtime for name in (LOG, PROGRESS)) - start)
    return seconds


def tail(path: Path) -> str:
    """The last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-FAILED_LINES:]
    return "\n".join(f"  | {line}" for line in lines)
