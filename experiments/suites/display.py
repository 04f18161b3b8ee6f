"""The display of `unclip reproduce` while stages run: a live table on a terminal, elsewhere single lines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.console.progress import LINE_SECONDS, clock, progress_line, read_progress
from modules.untrusted.reading import printable

TABLE_SECONDS = 0.5


@dataclass(frozen=True)
class Line:
    """A running stage, as it is shown."""

    name: str
    number: int
    started: float
    """time.monotonic() of its start."""
    progress: Path


class Display:
    """Shows running stages; `say` prints a line that stays."""

    def __init__(self, count: int, console: Console | None = None) -> None:
        self.count = count
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            # Refreshed by hand: a thread of its own does not go well with starting processes.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line (or some), above the table if there is one; records and logs may be a stranger's."""
        lines = "\n".join(map(printable, text.split("\n")))
        self.console.print(lines, markup=False, highlight=False, soft_wrap=True)

    def show(self, lines: list[Line]) -> None:
        """Show the running stages, if it is time to."""
        now = time.monotonic()
        if now - self._shown < (TABLE_SECONDS if self._live else LINE_SECONDS):
            return
        self._shown = now
        if self._live:
            self._live.update(self.table(lines, now), refresh=True)
        else:
            for line in lines:
                self.say(f"  {self.text(line, now)}")

    def text(self, line: Line, now: float) -> str:
        """'[3/12] decoder: 1,200 of 6,000, 7.1/s, 11:16 left; running for 2:50'."""
        state = read_progress(line.progress)
        # A stage that has parts names the part that it is at.
        part = f"{state['label']}: " if state and state.get("label") != line.name else ""
        done = part + progress_line(state).partition(": ")[2] if state else "starting"
        return f"[{line.number}/{self.count}] {line.name}: {done}; running for {clock(now - line.started)}"

    def table(self, lines: list[Line], now: float) -> Table:
        """The running stages as a table."""
        table = Table(title=f"{clock(now - self._began)} so far", title_justify="left", box=None, pad_edge=False)
        for name in ("stage", "", "done", "of", "rate", "left", "running for"):
            table.add_column(name, justify="left" if name in ("stage", "") else "right", no_wrap=True)
        for line in lines:
            state = read_progress(line.progress)
            done, total, rate, eta = (state.get(key) for key in ("done", "total", "rate", "eta_s"))
            label = str(state.get("label", "starting"))
            table.add_row(
                Text(f"[{line.number}/{self.count}] {line.name}"),
                Text("" if label == line.name else label),
                f"{int(done):,}" if done is not None else "",
                f"{int(total):,}" if total else "",
                f"{float(rate):.3g}/s" if rate else "",
                clock(float(eta)) if eta is not None else "",
                clock(now - line.started),
            )
        return table
