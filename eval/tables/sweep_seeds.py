"""Sweeps over training seeds: the mean and interval of every point's numbers over replicas of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.metrics.bootstrap import LEVEL
from eval.protocol import check_protocols
from eval.tables.main import Cell, Table, label, number
from eval.tables.seeds import as_json_mean
from eval.tables.sweeps import (
    EMBEDDING_COLUMNS,
    IMAGE_COLUMNS,
    Sweep,
    accuracy_of,
    point_text,
    read_sweeps,
    settings_text,
)

ALL = "all"
Found = dict[str, dict[str, list[float]]]
"""Point -> metric -> the value in each replica."""


def point_name(point: Mapping[str, Any]) -> str:
    """A point in words, the same in every replica: "diffusion_prior: sampler ddim, steps 2"."""
    return f"{point['condition']}: {settings_text(point['settings'])}"


def gather_sweeps(runs: Sequence[Path]) -> dict[str, tuple[Sweep, Found]]:
    """Sweep -> the first replica's, and the numbers of all points and metrics that every replica has.

    Left out are sweeps whose replicas were measured by different protocols, such as embeddings of different CLIPs.

    Args:
        runs: the run folders of the replicas.
    """
    replicas = [read_sweeps(run) for run in runs]
    found: dict[str, tuple[Sweep, Found]] = {}
    for name, first in replicas[0].items():
        if not all(name in sweeps for sweeps in replicas):
            continue
        points = [{point_name(p): p for p in sweeps[name].points} for sweeps in replicas]
        if not _comparable([p for named in points for p in named.values()]):
            continue
        shared = [key for key in points[0] if all(key in named for named in points)]
        found[name] = first, {key: numbers_of([named[key] for named in points], first.space) for key in shared}
    return found


def _comparable(points: Sequence[Mapping[str, Any]]) -> bool:
    try:
        check_protocols(points, ignore=("seed",))
    except InputError:
        return False
    return True


def numbers_of(points: Sequence[Mapping[str, Any]], space: str) -> dict[str, list[float]]:
    """Metric -> the value in each replica, of one point."""
    columns = IMAGE_COLUMNS if space == "images" else EMBEDDING_COLUMNS
    each = {name: [point.get(name) for point in points] for name in columns}
    each[ALL] = [accuracy_of(point) for point in points]
    return {name: [float(v["value"]) for v in values if v] for name, values in each.items() if all(values)}


def sweep_seeds_table(sweep: Sweep, found: Found, replicas: int) -> Table:
    """Mean and Student's interval over the replicas, a point a row.

    Raises:
        InputError: fewer than two replicas.
    """
    if replicas < 2:
        raise InputError(f"an interval over training seeds needs 2 replicas or more, found {replicas}")
    columns = {**(IMAGE_COLUMNS if sweep.space == "images" else EMBEDDING_COLUMNS), ALL: ("all right ↑", 2)}
    shown = [name for name in columns if any(name in values for values in found.values())]
    body = []
    for point in sweep.points:
        values = found.get(point_name(point))
        if values is None:
            continue
        cells = [number(as_json_mean(values[m]), columns[m][1]) if m in values else Cell("–") for m in shown]
        settings = [Cell(point_text(point)), Cell(str(point["evaluations"] or "–"))]
        body.append([Cell(label(point["condition"])), *settings, *cells])
    said = [
        f"Mean of {replicas} replicas, trained from seeds of their own; in brackets Student's {LEVEL:.0%} interval of"
        " that mean. Captions, noise, real images, judges and all stages that are not replicated are the same in all.",
    ]
    heads = ["condition", "settings", "evals", *(columns[name][0] for name in shown)]
    return Table(f"{sweep.title}: {replicas} training seeds", heads, body, said)
