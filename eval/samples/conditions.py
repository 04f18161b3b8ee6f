"""The conditions that samples are drawn under: their order in tables, and how tables and figures call them.

The conditions themselves are one table, `modules.conditions`, which is data and all that the evaluation takes from the
rest of the project. Real images are a row of tables too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.conditions import CONDITIONS as DRAWN

REAL = "real"

CONDITIONS = {name: found.label for name, found in DRAWN.items() if found.in_main_table} | {REAL: "real images (floor)"}
"""The rows of the main table in their order, with their labels."""

LABELS = {name: found.label for name, found in DRAWN.items()} | CONDITIONS
COLOURS = {name: found.colour for name, found in DRAWN.items()} | {REAL: "#999933"}

Row = dict[str, Any]
"""What `eval.measure.measure` returns for one condition."""


def label(condition: str) -> str:
    """How tables and figures of numbers call a condition."""
    return LABELS.get(condition, condition)


def picture_label(condition: str) -> str:
    """How pages of pictures call it: ceiling and floor are of numbers."""
    return label(condition).removesuffix(" (ceiling)").removesuffix(" (floor)")


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of `CONDITIONS`; unknown ones after them, by name."""
    names = list(CONDITIONS)
    return sorted(rows, key=lambda r: (names.index(r["condition"]) if r["condition"] in names else 99, r["condition"]))
