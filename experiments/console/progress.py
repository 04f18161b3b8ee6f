"""Progress of long work: a bar on a terminal, elsewhere a line every 15 seconds, and a small file for the runner.

`for batch in progress(batches, "embedding train"): ...` or `with progress(512, "drawing") as bar: ...; bar.advance(8)`.
When the environment variable UNCLIP_PROGRESS names a file, it is rewritten, atomically and at most once a second,
as `{"label", "done", "total", "rate", "eta_s"}`: `rate` is units a second, `eta_s` is null until it can be known.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from experiments.storage.folders import read_json, write_json

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

T = TypeVar("T")

FILE_VARIABLE = "UNCLIP_PROGRESS"
FILE_SECONDS = 1.0
LINE_SECONDS = 15.0
NOTE_SECONDS = 1.0
RATE_SECONDS = 60.0


def progress(work: Iterable[T] | int, label: str, total: int | None = None) -> Progress[T]:
    """Report progress of `work`: an iterable (its length is the total unless `total` is given) or a number of units."""
    if isinstance(work, int):
        return Progress(label, work)
    if total is None and isinstance(work, Sized):
        total = len(work)
    return Progress(label, total, work)


class Progress(Generic[T]):
    """Counts units of work and shows them. It is a context manager; given an iterable, it can be iterated over too.

    Args:
        keep: called every 15 seconds with the line that is printed without a terminal, on a terminal too.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        items: Iterable[T] = (),
        done: int = 0,
        keep: Callable[[str], None] | None = None,
    ) -> None:
        self.label, self.total, self.done = label, total, done
        self._items, self._keep = items, keep
        self._file = os.environ.get(FILE_VARIABLE)
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), done)])
        self._written = self._printed = self._noted = -float("inf")
        self._said = ""
        self._bar: tuple[RichProgress, TaskID] | None = None
        self._note: Callable[[], str] | None = None

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.advance()

    def __enter__(self) -> Progress[T]:
        if not self._file and sys.stderr.isatty():
            self._bar = terminal_bar(self.label, self.total, self.done)
        self._printed = time.monotonic()
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(last=True)
        if self._bar:
            self._bar[0].stop()

    def advance(self, units: int = 1) -> None:
        """`units` more are done."""
        self.update(self.done + units)

    def update(self, done: int, note: Callable[[], str] | None = None) -> None:
        """`done` units are done in all; `note` gives what is shown beside them, and is called only when it is shown."""
        self.done, self._note = done, note
        now = time.monotonic()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] > RATE_SECONDS:
            self._samples.popleft()
        self._show()

    @property
    def rate(self) -> float:
        """Units a second over the last minute; 0 while unknown."""
        (start, first), (now, last) = self._samples[0], self._samples[-1]
        return (last - first) / (now - start) if now > start else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds left, or None while unknown."""
        if self.total is None or self.rate <= 0:
            return None
        return max(self.total - self.done, 0) / self.rate

    def as_dict(self) -> dict[str, str | int | float | None]:
        """The content of the progress file."""
        return {"label": self.label, "done": self.done, "total": self.total, "rate": self.rate, "eta_s": self.eta}

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._file and (last or now - self._written >= FILE_SECONDS):
            self._written = now
            # If the disk is full, the work goes on without its progress file.
            with contextlib.suppress(OSError):
                write_json(Path(self._file), self.as_dict(), sync=False)
        if self._bar:
            if last or now - self._noted >= NOTE_SECONDS:
                self._noted, self._said = now, self._note() if self._note else ""
            speed = ", ".join(filter(None, (f"{self.rate:.2f}/s", self._said)))
            self._bar[0].update(self._bar[1], completed=self.done, speed=speed)
        if now - self._printed >= LINE_SECONDS:
            self._printed = now
            self._print(", ".join(filter(None, (progress_line(self.as_dict()), self._note() if self._note else ""))))

    def _print(self, line: str) -> None:
        if not self._bar:
            print(line, file=sys.stderr, flush=True)
        if self._keep:
            self._keep(line)


def terminal_bar(label: str, total: int | None, done: int) -> tuple[RichProgress, TaskID]:
    """A running rich bar on stderr, and its task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task(label, total=total, completed=done, speed="")


def read_progress(path: Path) -> dict[str, str | int | float | None]:
    """The content of a progress file; {} if there is none, or it cannot be read."""
    return read_json(path) or {}


def progress_line(state: dict[str, str | int | float | None]) -> str:
    """One line for a person: 'label: 120 of 2,000, 3.4/s, 0:09:12 left'."""
    done, total, rate, eta = (state.get(key) for key in ("done", "total", "rate", "eta_s"))
    text = f"{int(done or 0):,}" + (f" of {int(total):,}" if total else "")
    parts = [text, f"{float(rate):.3g}/s"] if rate else [text]
    if eta is not None:
        parts.append(f"{clock(float(eta))} left")
    return f"{state.get('label', '')}: {', '.join(parts)}"


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
