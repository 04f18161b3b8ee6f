"""A table of texts and intervals, written as Markdown, LaTeX, csv, or on a terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from eval.untrusted import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

DASH = "–"  # where nothing was measured
SMALL_FROM = 30  # rows that in type of LaTeX's usual size would not go on a page


class Cell(NamedTuple):
    """A table's cell: a text, and an addition to it, such as the interval of a number."""

    text: str
    interval: str = ""

    def limits(self) -> tuple[str, str] | None:
        """Low and high of an interval, be it "[1, 2]" or "± 0.5"; None where something else stands beside the text."""
        found = re.fullmatch(r"\[(\S+), (\S+)\]", self.interval)
        if found:
            return found[1], found[2]
        half = re.fullmatch(r"± (\d+(?:\.(\d+))?)", self.interval)
        if half is None or not re.fullmatch(r"-?\d+(\.\d+)?", self.plain()):
            return None
        value, digits = float(self.plain()), len(half[2] or "")
        return f"{value - float(half[1]):.{digits}f}", f"{value + float(half[1]):.{digits}f}"

    def plain(self) -> str:
        """The text for a program: nothing for a dash, no per cent sign."""
        return "" if self.text == DASH else self.text.removesuffix(" %")


@dataclass(frozen=True)
class Table:
    """A table, independent of the format in which it is written.

    Attributes:
        title: what it shows.
        columns: the headings.
        rows: as many cells each.
        notes: sentences that stand below: protocol, sample counts, what is missing.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """As a GitHub-flavoured table under a heading, with its notes."""
        lines = [f"## {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line([f"{c.text} {c.interval}".strip() for c in row]) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"

    def latex(self) -> str:
        """As a booktabs table over all columns of the page, with its caption and notes.

        Needs \\usepackage{booktabs,graphicx}. A table that is wider than the text is made smaller.
        """
        lines = [r"\begin{table*}", r"\centering", rf"\caption{{{_tex(self.title)}}}"]
        lines += [r"\footnotesize"] if len(self.rows) > SMALL_FROM else []
        lines += [r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\toprule", _tex_line(self.columns)]
        lines += [r"\midrule", *(_tex_line([f"{c.text} {c.interval}".strip() for c in row]) for row in self.rows)]
        lines += [r"\bottomrule", r"\end{tabular}}", *(rf"\par\footnotesize {_tex(note)}" for note in self.notes)]
        return "\n".join([*lines, r"\end{table*}"]) + "\n"

    def csv(self) -> str:
        """As csv for programs: "x" has "x low" and "x high" after it where any of its cells has an interval.

        What else stands beside a text, such as the paper's value, is in "x beside". Nothing was measured where a field
        is empty; per cent signs stand in the heading.
        """
        out = io.StringIO()
        columns = [list(column) for column in zip(*self.rows, strict=True)] or [[] for _ in self.columns]
        fields = [
            _fields(name, column) for name, column in zip(self.columns, columns, strict=True)
        ]  # heading -> values, for each column of the table
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([head for heads in fields for head in heads])
        writer.writerows(zip(*(values for heads in fields for values in heads.values()), strict=True))
        return out.getvalue()

    def rich(self, intervals: bool = True) -> RichTable:
        """For rich's console; an interval stands below its number."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        title = Text(printable(self.title), style="table.title")
        table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for k, column in enumerate(self.columns):
            head = Text("\n".join(map(printable, column.split(" "))))
            table.add_column(head, justify="left" if k == 0 else "right", no_wrap=True)
        for row in self.rows:
            texts = [Text(printable(c.text)) for c in row]
            for text, cell in zip(texts, row, strict=True):
                if intervals and cell.interval:
                    text.append(f"\n{printable(cell.interval)}", style="dim")
            table.add_row(*texts)
        return table

    def print(self, console: Console) -> None:
        """Prints the table and its notes; with intervals where they fit."""
        wide = self.rich()
        needed = console.measure(wide, options=console.options.update(max_width=10_000)).maximum
        fits = needed <= console.width
        console.print(wide if fits else self.rich(intervals=False))
        for note in self.notes:
            console.print(f"- {printable(note)}", markup=False, highlight=False)


def number(interval: Mapping[str, float] | None, digits: int) -> Cell:
    """A value with its interval, if it has one; a dash where nothing was measured."""
    if interval is None:
        return Cell(DASH)
    if "low" not in interval:
        return Cell(f"{interval['value']:.{digits}f}")
    low, high = (f"{interval[key]:.{digits}f}" for key in ("low", "high"))
    return Cell(f"{interval['value']:.{digits}f}", f"[{low}, {high}]")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _fields(name: str, cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The columns of a csv for one of a table: heading -> a value for each row."""
    head = f"{name} (%)" if any(cell.text.endswith(" %") for cell in cells) else name
    found = {head: [cell.plain() for cell in cells]}
    limits = [cell.limits() for cell in cells]
    if any(limits):
        found[f"{name} low"], found[f"{name} high"] = ([each[k] if each else "" for each in limits] for k in (0, 1))
    if any(cell.interval and each is None for cell, each in zip(cells, limits, strict=True)):
        beside = zip(cells, limits, strict=True)
        found[f"{name} beside"] = ["" if each else cell.interval.strip("()") for cell, each in beside]
    return found


TEX = {"\\": r"\textbackslash{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "±": r"$\pm$", "−": "$-$"}
TEX |= {character: rf"\{character}" for character in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}
TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"
