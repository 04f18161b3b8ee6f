"""What signals ask for, as exit codes: light enough for the first lines of every command."""

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
    """The code to leave with after a signal: a person's SIGINT is not to be requeued, a scheduler's signals are."""
    return EXIT_REQUEUE if number in PREEMPTION else 128 + number


@contextlib.contextmanager
def requeued_when_preempted() -> Iterator[None]:
    """A scheduler's signals leave at once with the code that requeues: before training there is nothing to save."""
    # On SLURM, Lightning answers SIGUSR1, and does not if somebody else does.
    wanted = [number for number in PREEMPTION if number == signal.SIGTERM or "SLURM_NTASKS" not in os.environ]
    with leaving_on_preemption(wanted):
        yield


@contextlib.contextmanager
def leaving_on_preemption(numbers: Sequence[signal.Signals] = PREEMPTION) -> Iterator[None]:
    """These signals leave at once with the code that requeues; in other threads than the first they are as before."""
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
