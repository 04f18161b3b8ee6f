"""`unclip` in processes forked from one that has imported everything: real processes, without their slow start.

Python with torch and Lightning takes seconds of a core to start, which a tool that starts hundreds does not have. What
is forked can be killed, stopped and waited for like any other process; only the program was not loaded anew. Each has a
session of its own, in which `benchmarks.trials.orphans` finds what it leaves behind, and forks its loader processes as
any other Python on Linux does, so that they end with it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

PRELOAD = [
    "benchmarks.trials.forked",
    "benchmarks.trials.injected",
    "datamodules.embeddings.module",
    "datamodules.shapes",
    "eval.judges.attributes",
    "eval.judges.features",
    "eval.measure",
    "eval.pages.report",
    "experiments.data.data",
    "experiments.embeddings.embed",
    "experiments.embeddings.probe",
    "experiments.evaluation.evaluate",
    "experiments.manipulations.gallery",
    "experiments.publishing.figures",
    "experiments.publishing.report",
    "experiments.publishing.tables",
    "experiments.sampling.sample",
    "experiments.suites.reproduce",
    "experiments.suites.runner",
    "experiments.sweeps.sweep",
    "experiments.training.fit",
    "modules.ar_prior",
    "modules.clip.trainer",
    "modules.decoder",
    "modules.diffusion_prior",
    "modules.linear_prior",
    "modules.upsampler",
    "torch.utils.tensorboard",
]
"""What the server imports; a name that is not there would be passed over in silence."""

PR_SET_PDEATHSIG = 1
SERVER = multiprocessing.get_context("forkserver")
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Work:
    """What a forked process is to do; see `Forked`."""

    words: list[str]
    cwd: Path
    env: dict[str, str]
    log: Path
    errors: Path
    program: Path | None = None


class Forked:
    """`unclip WORDS`, or a Python file with these words, as a process, with what is used of subprocess.Popen.

    Args:
        words: of the command line.
        cwd: the folder that it works in.
        env: all of its environment; folders of PYTHONPATH are looked in first.
        log: the file that its output goes to.
        errors: the file that its stderr goes to; by default `log` too.
        program: the Python file that is run in place of `unclip`.
    """

    def __init__(
        self,
        words: list[str],
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
        errors: Path | None = None,
        program: Path | None = None,
    ) -> None:
        SERVER.set_forkserver_preload(PRELOAD)
        self.log, self.errors = log, errors or log
        work = Work(words, cwd, dict(env), self.log, self.errors, program)
        self.process = SERVER.Process(target=lead, args=(work,))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, when it has ended.

        Raises:
            TimeoutExpired: it has not in time.
        """
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            raise TimeoutExpired("unclip", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has said, when it has ended: on stdout, and on stderr.

        Raises:
            TimeoutExpired: it has not in time.
        """
        self.wait(timeout)
        out, errors = (path.read_text(errors="replace") for path in (self.log, self.errors))
        return out, errors

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkedStage:
    """What the runner of suites takes for a stage's process (`experiments.suites.processes.StageProcess`)."""

    def __init__(self, words: list[str], env: dict[str, str], log: Path, lock: Path) -> None:
        from experiments.suites.processes import take_lock

        descriptor = take_lock(lock, words)
        try:
            work = Work(words[1:], Path.cwd(), env, log, log)
            self.process = FORK.Process(target=run_stage, args=(os.getpid(), work))
            self.process.start()
        finally:
            os.close(descriptor)  # The stage keeps its own.

    @property
    def code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send a signal: SIGINT to the process itself, others to all of its group."""
        if self.code is None and self.process.pid is not None:
            os.kill(self.process.pid, number) if number == signal.SIGINT else os.killpg(self.process.pid, number)


def lead(work: Work) -> None:
    """In the forked process: in a session of its own, become `unclip WORDS`; dies with the tool, and its server."""
    # The server ends with the last process that holds this, and this one with the server: only the tool may hold it.
    held = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)  # type: ignore[attr-defined]
    if held is not None:
        os.close(held)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    run(work)


def run_stage(runner: int, work: Work) -> None:
    """In the forked process of a stage: dies with its runner, and has a session of its own."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != runner:
        os._exit(1)
    os.setsid()
    run(work)


def run(work: Work) -> None:
    """In the forked process: become `unclip WORDS`, or the program."""
    # A child of a server would start its own through that server, whose children do not notice when it is killed.
    multiprocessing.set_start_method("fork", force=True)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(work.cwd)
    os.environ.clear()
    os.environ.update(work.env)
    sys.path[:0] = [folder for folder in work.env.get("PYTHONPATH", "").split(os.pathsep) if folder]
    for standard, path in ((1, work.log), (2, work.errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), standard)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
    sys.argv = [str(work.program or "unclip"), *work.words]
    if "torch" in sys.modules:  # It has read OMP_NUM_THREADS already.
        sys.modules["torch"].set_num_threads(1)
    try:
        code = run_program(work.program) if work.program else run_unclip(work.words)
    finally:
        sys.stdout.flush()
    # What is left of Lightning's threads does not matter: it has said what it had to say.
    sys.exit(code)


def run_unclip(words: list[str]) -> int:
    """The command; a further process that Lightning starts is `python -m experiments.cli`."""
    from experiments.cli import main
    from experiments.suites import forkable, runner

    stage: Any = ForkedStage
    runner.StageProcess = stage  # type: ignore[misc]
    forkable.AVAILABLE = False  # This process has imported all that a server of the runner's would.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("experiments.cli")
    return main(words)


def run_program(path: Path) -> int:
    """The file, as `python FILE` runs it; that is what Lightning starts for a further process, too."""
    sys.modules["__main__"].__spec__ = None
    runpy.run_path(str(path), run_name="__main__")
    return 0


def warm() -> float:
    """Start the process that all others are forked from; returns the seconds that it took."""
    began = time.monotonic()
    SERVER.set_forkserver_preload(PRELOAD)
    process = SERVER.Process(target=os.getpid)
    process.start()
    process.join()
    return time.monotonic() - began
