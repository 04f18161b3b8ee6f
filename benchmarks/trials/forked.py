"""`unclip` in processes forked from one that has imported everything: real processes, without their slow start.

Python with torch and Lightning takes seconds of a core to start, which a tool that starts hundreds does not have. What
is forked can be killed, stopped and waited for like any other process; only the program was not loaded anew. Each has a
session of its own, in which `benchmarks.trials.orphans` finds what it leaves behind, and forks its loader processes as
any other Python on Linux does, so that they end with it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

PRELOAD = [
    f"experiments.{name}" for name in ("lightning_cli", "sample", "probe", "embed", "evaluate", "report", "data")
]
PRELOAD += [f"experiments.{name}" for name in ("reproduce", "runner", "sweep", "tables", "figures")]
PRELOAD += [f"eval.{name}" for name in ("measure", "report", "attributes", "features")]
PRELOAD += [f"modules.{name}" for name in ("linear_prior", "ar_prior", "diffusion_prior", "decoder", "upsampler")]
PRELOAD += [
    "datamodules.shapes",
    "datamodules.embeddings.module",
    "torch.utils.tensorboard",
    "benchmarks.trials.injected",
]
PRELOAD += ["experiments.manipulations.gallery", "benchmarks.trials.forked"]

PR_SET_PDEATHSIG = 1
SERVER = multiprocessing.get_context("forkserver")
FORK = multiprocessing.get_context("fork")


class Forked:
    """`unclip WORDS` as a process, with what is used of subprocess.Popen.

    Args:
        words: of the command line.
        cwd: the folder that it works in.
        env: all of its environment.
        log: the file that its output goes to.
    """

    def __init__(self, words: list[str], cwd: Path, env: Mapping[str, str], log: Path) -> None:
        SERVER.set_forkserver_preload(PRELOAD)
        self.process = SERVER.Process(target=lead, args=(words, cwd, dict(env), log))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

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
            self.process = FORK.Process(target=run_stage, args=(os.getpid(), words[1:], env, log))
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


def lead(words: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
    """In the forked process: in a session of its own, become `unclip WORDS`; dies with the tool, and its server."""
    # The server ends with the last process that holds this, and this one with the server: only the tool may hold it.
    held = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)  # type: ignore[attr-defined]
    if held is not None:
        os.close(held)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    run(words, cwd, env, log)


def run_stage(runner: int, words: list[str], env: dict[str, str], log: Path) -> None:
    """In the forked process of a stage: dies with its runner, and has a session of its own."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != runner:
        os._exit(1)
    os.setsid()
    run(words, Path.cwd(), env, log)


def run(words: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
    """In the forked process: become `unclip WORDS`."""
    # A child of a server would start its own through that server, whose children do not notice when it is killed.
    multiprocessing.set_start_method("fork", force=True)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
    sys.argv = ["unclip", *words]
    import torch

    from experiments.cli import main
    from experiments.suites import forkable, runner

    torch.set_num_threads(1)
    stage: Any = ForkedStage
    runner.StageProcess = stage  # type: ignore[misc]
    forkable.AVAILABLE = False  # This process has imported all that a server of the runner's would.
    try:
        code = main(words)
    finally:
        sys.stdout.flush()
    # What is left of Lightning's threads does not matter: it has said what it had to say.
    sys.exit(code)


def warm() -> float:
    """Start the process that all others are forked from; returns the seconds that it took."""
    began = time.monotonic()
    SERVER.set_forkserver_preload(PRELOAD)
    process = SERVER.Process(target=os.getpid)
    process.start()
    process.join()
    return time.monotonic() - began
