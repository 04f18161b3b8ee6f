"""Over training seeds: mean and interval of every number, and which orderings the replicas support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from eval.errors import InputError
from eval.metrics.bootstrap import LEVEL, Interval, as_json
from eval.protocol import check_protocols
from eval.tables.main import CONDITIONS, Cell, Table, in_order, label, number

METRICS: dict[str, tuple[str, int]] = {
    "frechet": ("Frechet ↓", 2),
    "clip_score": ("CLIP score ↑", 3),
    "recall": ("recall ↑", 2),
    "diversity": ("diversity", 2),
    "colour": ("colour ↑", 2),
    "shape": ("shape ↑", 2),
    "relation": ("relation ↑", 2),
    "all": ("all ↑", 2),
}
Rows = Sequence[Mapping[str, Any]]


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of a few independent values with Student's 95 % interval; without limits for one value."""
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """A number of a row of the main table."""
    found = row.get(metric) if metric in row else (row.get("accuracy") or {}).get(metric)
    return None if found is None else float(found["value"])


def gather(replicas: Sequence[Rows]) -> dict[str, dict[str, list[float]]]:
    """condition -> metric -> the value in each replica; of conditions and metrics that all replicas have.

    Args:
        replicas: the rows of the main table of each.

    Raises:
        InputError: fewer than two replicas, or rows of different protocols (the seed of the draws may differ).
    """
    if len(replicas) < 2:
        raise InputError(f"an interval over training seeds needs 2 replicas or more, found {len(replicas)}")
    check_protocols([row for rows in replicas for row in rows], ignore=("seed",))
    by_name = [{row["condition"]: row for row in rows} for rows in replicas]
    found: dict[str, dict[str, list[float]]] = {}
    for row in in_order([dict(row) for row in replicas[0]]):
        name = row["condition"]
        if not all(name in other for other in by_name):
            continue
        columns = {metric: [value_of(other[name], metric) for other in by_name] for metric in METRICS}
        found[name] = {m: [v for v in values if v is not None] for m, values in columns.items() if None not in values}
    return found


def seeds_table(found: Mapping[str, Mapping[str, Sequence[float]]], n: int) -> Table:
    """Mean and interval over the replicas."""
    metrics = [m for m in METRICS if any(m in values for values in found.values())]
    body = []
    for condition, values in found.items():
        cells = [number(as_json_mean(values[m]), METRICS[m][1]) if m in values else Cell("–") for m in metrics]
        body.append([Cell(label(condition)), *cells])
    said = [
        f"Mean of {n} replicas, trained and sampled from seeds of their own; in brackets Student's {LEVEL:.0%} interval"
        " of that mean. The judges, the captions and the real images are the same in all.",
    ]
    return Table(f"Over {n} training seeds", ["condition", *(METRICS[m][0] for m in metrics)], body, said)


def as_json_mean(values: Sequence[float]) -> dict[str, float] | None:
    """`t_interval` of two values or more, JSON-ready."""
    return as_json(t_interval(values))


def orderings_table(found: Mapping[str, Mapping[str, Sequence[float]]], metric: str = "frechet") -> Table:
    """For each pair of conditions: whether the sign of their difference is sure, also by Holm's rule."""
    names = [name for name in CONDITIONS if name in found and metric in found[name]]
    body, chances, claims = [], [], []
    for a, b in combinations(names, 2):
        differences = [x - y for x, y in zip(found[a][metric], found[b][metric], strict=True)]
        apart = t_interval(differences)
        sure = apart.high < 0 or apart.low > 0
        smaller, larger = (a, b) if apart.value < 0 else (b, a)
        ordering = f"{label(smaller)} < {label(larger)}"
        body.append(
            [
                Cell(f"{label(a)} − {label(b)}"),
                number(as_json(apart), METRICS[metric][1]),
                Cell(ordering if sure else "not decided"),
            ]
        )
        chances.append(chance(differences))
        claims.append(ordering)
    title = f"Orderings by {METRICS[metric][0].rstrip(' ↑↓')}"
    kept = [claim for claim, stays in zip(claims, holm(chances), strict=True) if stays]
    said = [
        "Differences within a replica; Student's interval over replicas. An ordering is claimed where it leaves out 0.",
        f"Each of these {len(body)} differences is tested by itself: were none real, {(1 - LEVEL) * len(body):.2g}"
        " would be claimed by chance. With Holm's correction for all of them (so that by chance any is claimed once in"
        f" {1 / (1 - LEVEL):.0f} tables) there stay: {', '.join(kept) or 'none'}.",
    ]
    return Table(title, ["difference", "mean", "ordering"], body, said)


def chance(differences: Sequence[float]) -> float:
    """Student's two-sided p-value of a mean of 0; 1 where nothing differs or there is one value only."""
    from scipy.stats import t

    x = np.asarray(differences, dtype=np.float64)
    if len(x) < 2 or not x.any():
        return 1.0
    error = x.std(ddof=1) / np.sqrt(len(x))
    return float(2 * t.sf(abs(x.mean()) / error, len(x) - 1)) if error > 0 else 0.0


def holm(chances: Sequence[float]) -> list[bool]:
    """Which of several p-values stay below 1 - LEVEL by Holm's step-down rule (1979)."""
    stays = [False] * len(chances)
    for rank, k in enumerate(np.argsort(chances, kind="stable")):
        if chances[k] > (1 - LEVEL) / (len(chances) - rank):
            break
        stays[k] = True
    return stays
