"""The numbers of a run as one small object, for the page of claims and its test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.runs import read_json, read_run
from eval.tables.sweep_seeds import point_name
from eval.tables.sweeps import read_sweeps

ENDS = ("value", "low", "high")
KEPT = (*ENDS, "values")
DIGITS = 6


def stored(run: Path) -> dict[str, Any]:
    """All intervals of a run by part, and nothing else: a few kilobytes.

    Returns:
        {"main": {condition: metrics}, "sweeps": {sweep: {point: metrics}}, "seeds": {...}, "seeds_SWEEP": {...},
        "manipulations": {figure: metrics}}, of those that the run has; metrics are numbers {"value", "low", "high"} by
        name, or such mappings again. A number of a figure that has no interval is {"value"}.
    """
    rows = read_run(run).rows
    found: dict[str, Any] = {"main": {row["condition"]: numbers_in(row) for row in rows}}
    found["sweeps"] = {
        name: {point_name(point): numbers_in(point) for point in sweep.points}
        for name, sweep in read_sweeps(run).items()
    }
    for path in sorted(run.glob("seeds*.json")):
        found[path.stem] = numbers_in(read_json(path) or {})
    found["manipulations"] = {
        path.parent.name: numbers_of_figure((read_json(path) or {}).get("numbers", {}))
        for path in sorted(run.glob("manipulations/*/figure.json"))
    }
    return {name: part for name, part in found.items() if part}


def numbers_of_figure(value: Any) -> dict[str, Any]:
    """The numbers of a figure, and of what lies in them; those of a list by their places, "0" and on."""
    if isinstance(value, list):
        value = {str(place): inner for place, inner in enumerate(value)}
    if isinstance(value, dict):
        if set(value) == set(ENDS):
            return {end: _rounded(value[end]) for end in ENDS}
        inside = ((key, numbers_of_figure(inner)) for key, inner in value.items())
        return {key: found for key, found in inside if found}
    return {"value": _rounded(value)} if _is_number(value) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
