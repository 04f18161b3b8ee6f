"""Stages as processes: started so that they die with the runner, stopped so that they can save what they have."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from experiments.storage.holding import holder, sign
from modules.errors import InputError
from modules.untrusted.writing import open_in_place, open_to_append

PR_SET_PDEATHSIG = 1
SIGINT_SECONDS = 30.0
SIGTERM_SECONDS = 10.0
LOCK_SECONDS = 10.0


def available_cores() -> int:
    """Cores that this process may use, by affinity and by the container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no quota ("max"), or no such file
        return cores


def environment(threads: int, extra: dict[str, str]) -> dict[str, str]:
    """The environment of a stage: this interpreter's commands come first on the PATH.

    SLURM_NTASKS is removed. In a SLURM job the runner is the task, but Lightning takes the stage for it if that
    variable is set. It would then train on one device whatever `devices` says, and requeue the job before the runner
    has recorded the stage's end.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    here = {name: value for name, value in os.environ.items() if name != "SLURM_NTASKS"}
    return {**here, "PATH": path, "OMP_NUM_THREADS": str(threads), **extra}


class StartedStage(Protocol):
    """A stage that has been started: a program of its own, or a forked process."""

    @property
    def code(self) -> int | None:
        """Exit code, or None while it runs."""

    def send(self, number: int) -> None:
        """Send a signal."""


class StageProcess:
    """A running stage: its process, in a session of its own, so that Ctrl-C on the terminal reaches only the runner.

    A lock file that the process inherits tells a later runner that it is still there, should it outlive this one.
    """

    def __init__(self, words: list[str], env: dict[str, str], log: Path, lock: Path) -> None:
        descriptor = take_lock(lock, words)
        try:
            with open_to_append(log) as file:
                self.process = subprocess.Popen(
                    command_line(words),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(descriptor,),
                    preexec_fn=die_with_parent(),
                )
        except FileNotFoundError:
            raise InputError(f"command {words[0]!r} is not installed; see its name in the suite") from None
        finally:
            os.close(descriptor)

    @property
    def code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.poll()

    def send(self, number: int) -> None:
        """Send a signal: SIGINT to the process itself, whose helpers it ends as it likes; others to all of them."""
        try:
            if number == signal.SIGINT:
                self.process.send_signal(number)
            else:
                os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


def stop_all(processes: Sequence[StartedStage], hurry: Callable[[], bool], tick: Callable[[], None]) -> None:
    """Ask the processes to stop, more and more firmly, until none is left.

    Args:
        processes: what to stop.
        hurry: says whether to kill at once.
        tick: called several times a second while waiting.
    """
    for number, seconds in ((signal.SIGINT, SIGINT_SECONDS), (signal.SIGTERM, SIGTERM_SECONDS), (signal.SIGKILL, 10.0)):
        for process in processes:
            process.send(number)
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.code is None for process in processes):
            if hurry() and number != signal.SIGKILL:
                break
            tick()
            time.sleep(0.1)


def command_line(words: list[str]) -> list[str]:
    """The words as they are run: `unclip` and `python` are this interpreter's, even where no script is installed."""
    if words[0] == "unclip" and script() is None:
        return [sys.executable, "-m", "experiments.cli", *words[1:]]
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def script() -> str | None:
    """The path of this interpreter's `unclip`; None where no script is installed."""
    path = Path(sys.executable).parent / "unclip"
    return str(path) if path.exists() else None


def die_with_parent() -> Callable[[], None] | None:
    """Called in a child before its program starts: the kernel kills it when the runner dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the runner died in between
            os._exit(1)

    return ask_kernel


def held_locks(folder: Path) -> list[Path]:
    """The locks of stages that are running."""
    return [path for path in sorted(folder.glob("*")) if is_held(path)]


def is_held(path: Path) -> bool:
    """Whether a stage's lock is held."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def take_lock(path: Path, words: list[str]) -> int:
    """A file descriptor that holds the lock of a stage; processes that inherit it keep it.

    Raises:
        InputError: another process holds it for more than ten seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_in_place(path, os.O_RDWR)
    end = time.monotonic() + LOCK_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sign(descriptor)
            return descriptor
        if time.monotonic() > end:
            os.close(descriptor)
            raise InputError(
                f"{' '.join(words[:2])} of another runner is still running in {str(path.parent.parent)!r} "
                f"({str(path)!r} is held by {holder(path)}); wait for it or end it"
            )
        time.sleep(0.1)
