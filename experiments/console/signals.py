"""Exit codes for signals. Every command imports this file first, so it imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong with the work; start the same command again and it goes on."""

PREEMPTION = (signal.SIGTERM, signal.SIGUSR1)
"""What a scheduler sends before it takes the machine away."""


def exit_code(number: int) -> int:
    """The exit code after a signal: EXIT_REQUEUE for a scheduler's, 128 + number for others, such as SIGINT."""
    return EXIT_REQUEUE if number in PREEMPTION else 128 + number


@contextlib.contextmanager
def requeued_when_preempted() -> Iterator[None]:
    """Until training starts, a scheduler's signal exits at once with EXIT_REQUEUE: there is nothing to save yet."""
    # On SLURM, Lightning handles SIGUSR1 itself, but only if no other handler is set.
    wanted = [number for number in PREEMPTION if number == signal.SIGTERM or "SLURM_NTASKS" not in os.environ]
    with leaving_on_preemption(wanted):
        yield


@contextlib.contextmanager
def leaving_on_preemption(numbers: Sequence[signal.Signals] = PREEMPTION) -> Iterator[None]:
    """These signals exit at once with EXIT_REQUEUE. In other threads than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(exit_code(number))

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
