"""Processes that outlive what started them: found, waited for, and ended, so that no tool leaves any behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROCESSES = Path("/proc")
SECONDS = 30.0
"""Time to leave by oneself: torch's loader processes look for their parent every five seconds."""


def in_session(session: int) -> list[int]:
    """Processes of a session; none where there is no /proc."""
    return [pid for pid in running() if session_of(pid) == session]


def in_folder(folder: Path) -> list[int]:
    """Processes that work in a folder or below it, this one left out."""
    place = folder.resolve()
    return [pid for pid in running() if pid != os.getpid() and place in (where := works_in(pid), *where.parents)]


def wait_until_gone(find: Callable[[], list[int]], seconds: float = SECONDS) -> float:
    """Wait until a search finds no process any more; returns the seconds that it took.

    Raises:
        RuntimeError: some stayed. They have been killed.
    """
    began = time.monotonic()
    while found := find():
        if time.monotonic() - began > seconds:
            named = ", ".join(f"{pid} ({words(pid)})" for pid in found)
            for pid in found:
                end(pid)
            raise RuntimeError(f"processes that outlived their parent by {seconds:.0f} s: {named}")
        time.sleep(0.05)
    return time.monotonic() - began


def running() -> Iterator[int]:
    """Every process that has not ended."""
    for path in PROCESSES.glob("[0-9]*"):
        if state(int(path.name))[:1] not in ([], ["Z"], ["X"]):
            yield int(path.name)


def state(pid: int) -> list[str]:
    """What /proc/PID/stat says from the state on (its parent is next, then its group and its session)."""
    try:
        return (PROCESSES / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def session_of(pid: int) -> int | None:
    """The session of a process; None when it has ended."""
    fields = state(pid)
    return int(fields[3]) if fields else None


def works_in(pid: int) -> Path:
    """The working folder of a process."""
    try:
        return (PROCESSES / str(pid) / "cwd").readlink()
    except OSError:
        return Path(os.devnull)


def words(pid: int) -> str:
    """Its command line."""
    try:
        return (PROCESSES / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80]
    except OSError:
        return "ended"


def end(pid: int) -> None:
    """SIGKILL to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
