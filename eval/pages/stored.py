"""The numbers of a run as one small object, for the page of claims and its test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.runs import read_json, read_run
from eval.tables.sweep_seeds import point_name
from eval.tables.sweeps import read_sweeps

KEPT = ("value", "low", "high", "values")
DIGITS = 6


def stored(run: Path) -> dict[str, Any]:
    """All intervals of a run by part, and nothing else: a few kilobytes.

    Returns:
        {"main": {condition: metrics}, "sweeps": {sweep: {point: metrics}}, "seeds": {...}, "seeds_SWEEP": {...}}, of
        those that the run has; metrics are numbers {"value", "low", "high"} by name, or such mappings again.
    """
    rows = read_run(run).rows
    found: dict[str, Any] = {"main": {row["condition"]: numbers_in(row) for row in rows}}
    found["sweeps"] = {
        name: {point_name(point): numbers_in(point) for point in sweep.points}
        for name, sweep in read_sweeps(run).items()
    }
    for path in sorted(run.glob("seeds*.json")):
        found[path.stem] = numbers_in(read_json(path) or {})
    return {name: part for name, part in found.items() if part}


def numbers_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row, and of what lies in it, without protocols, settings and texts."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("value"), int | float):
            found[name] = {key: _rounded(value[key]) for key in KEPT if key in value}
        elif inner := numbers_in(value):
            found[name] = inner
    return found


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.{DIGITS}g}")
