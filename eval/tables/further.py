"""The table of the metrics that are not in the main one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.protocol import check_protocols
from eval.samples.conditions import Row, in_order, label
from eval.tables.sweeps import SAMPLES_FIXED
from eval.tables.tabular import Cell, Table, number

COLUMNS = {
    "kid": ("KID ↓", 3),
    "precision": ("precision ↑", 2),
    "recall": ("recall ↑", 2),
    "density": ("density ↑", 2),
    "coverage": ("coverage ↑", 2),
    "cmmd": ("CMMD ↓", 3),
    "r_precision": ("R-precision ↑", 2),
    "inception_score": ("Inception Score ↑", 2),
    "aesthetic": ("aesthetic ↑", 2),
    "preference": ("preference ↑", 2),
    "bound": ("bound ↑", 2),
    "swapped": ("swapped ↓", 2),
}
"""Metric -> heading and digits; the last two are of "binding", over all pairs of attributes."""
BY_FEATURES = (
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
)
"""Those of the main judge's features, against the real images'; a note of the table says which features."""
OF_BINDING = ("bound", "swapped")
METRICS = tuple(name for name in COLUMNS if name not in OF_BINDING)


def further_table(rows: Sequence[Row]) -> Table:
    """Conditions against all further metrics that some row has, each with its interval.

    Raises:
        InputError: rows of different protocols.
    """
    rows = in_order(rows)
    chosen = [name for name in COLUMNS if any(value_of(row, name) for row in rows)]
    if not chosen:
        return Table("Further metrics", ["condition"], [], ["nothing of them has been measured: `unclip evaluate`"])
    body = [
        [Cell(label(row["condition"])), *(number(value_of(row, name), COLUMNS[name][1]) for name in chosen)]
        for row in rows
    ]
    heads = ["condition", *(COLUMNS[name][0] for name in chosen)]
    return Table("Further metrics", heads, body, _notes(rows, check_protocols(rows), chosen))


def value_of(row: Row, name: str) -> Mapping[str, float] | None:
    """The interval of a metric in a row; None where it was not measured."""
    found: Mapping[str, float] | None
    found = ((row.get("binding") or {}).get("any") or {}).get(name) if name in OF_BINDING else row.get(name)
    return found


def _notes(rows: Sequence[Row], protocol: Mapping[str, Any], chosen: Sequence[str]) -> list[str]:
    near, far = protocol.get("neighbours") or (None, None)
    within = {"precision": near, "recall": near, "density": far, "coverage": far}
    said = [
        f"n = {protocol['n']} a row, the captions, draws and notes of the main table. In brackets:"
        f" {protocol['level']:.0%} bootstrap intervals over"
        f" {'captions' if protocol.get('captioned', True) else 'pictures'}"
        + (
            f"; of recall and coverage: {protocol.get('recall_interval', SAMPLES_FIXED)}."
            if {"recall", "coverage"} & set(chosen)
            else "."
        )
    ]
    if "share_interval" in protocol:
        said.append(f"Intervals of precision, R-precision, bound, swapped: {protocol['share_interval']}.")
    names = [_name(c) + (f" (k = {within[c]})" if within.get(c) else "") for c in chosen if c in BY_FEATURES]
    if names:
        said.append(
            f"{', '.join(names)}: {protocol['extractor']}, {protocol['extractor_dim']} features, against"
            f" {protocol['reference_n']} real images ({protocol['reference_digest']})."
        )
    if "cmmd" in chosen:
        said.append(f"CMMD: 1,000 x squared MMD of embeddings by {protocol['clip']}, against the same real images.")
    if "r_precision" in chosen:
        among = f"{protocol['candidates']} " if protocol.get("candidates") else ""
        said.append(f"R-precision: own caption first among {among}captions, by {protocol['clip']}.")
    if "inception_score" in chosen:
        said.append(f"Inception Score: {protocol['inception']}; over all images at once.")
    said += [f"{_name(c)}: {protocol.get(c)}." for c in ("aesthetic", "preference") if c in chosen]
    if set(OF_BINDING) & set(chosen):
        counts = sorted({row["binding"]["any"]["n"] for row in rows if value_of(row, "bound")})
        said.append(
            f"Bound, swapped: of n = {' or '.join(map(str, counts))} samples whose captions tell two objects apart in"
            " two attributes, see the table of attribute binding."
        )
    return said


def _name(metric: str) -> str:
    return COLUMNS[metric][0].rstrip(" ↑↓")
