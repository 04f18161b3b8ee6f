"""The conditions that samples are drawn under: their order in tables, and how tables and figures call them.

The conditions themselves are one table, `modules.conditions`, which is data and all that the evaluation takes from the
rest of the project. Real images are a row of tables too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.conditions import CONDITIONS as DRAWN
from modules.conditions import ranked

REAL = "real"

CONDITIONS = {name: found.label for name, found in DRAWN.items() if found.in_main_table} | {REAL: "real images (floor)"}
"""The rows of the main table in their order, with their labels."""

LABELS = {name: found.label for name, found in DRAWN.items()} | CONDITIONS
COLOURS = {name: found.colour for name, found in DRAWN.items()} | {REAL: "#999933"}

Row = dict[str, Any]
"""What `eval.measure.measure` returns for one condition."""


def label(condition: str) -> str:
    """How tables and figures of numbers call a condition."""
    name, count = ranked(condition)
    known = LABELS.get(name, name)
    return known if count == 1 else f"{known}, best of {count}"


def colour(condition: str) -> str | None:
    """The colour of a condition's curves and bars; None for an unknown one."""
    return COLOURS.get(ranked(condition)[0])


def rows_in(samples: Path) -> list[str]:
    """The rows of a run's main table whose pictures lie below a folder, in the order of the table."""
    if not samples.is_dir():
        return []
    names = [path.name for path in samples.iterdir() if path.is_dir() and ranked(path.name)[0] in CONDITIONS]
    return sorted(names, key=_place)


def _place(condition: str) -> tuple[int, int, str]:
    name, count = ranked(condition)
    names = list(CONDITIONS)
    return (names.index(name) if name in names else 99, count, condition)


def picture_label(condition: str) -> str:
    """How pages of pictures call it: ceiling and floor are of numbers."""
    return label(condition).removesuffix(" (ceiling)").removesuffix(" (floor)")


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of `CONDITIONS`; unknown ones after them, by name."""
    return sorted(rows, key=lambda row: _place(row["condition"]))
