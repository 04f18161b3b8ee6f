"""The table of published metrics: a row for each metric, because they are many, and a column for each condition."""

from __future__ import annotations

from collections.abc import Sequence

from eval.judges.published.listing import PUBLISHED
from eval.protocol import check_protocols
from eval.samples.conditions import Row, in_order, label
from eval.tables.tabular import Cell, Table, number

DIGITS = {"laion_aesthetic": 3, "imagereward": 3, "vqascore": 3, "cmmd_vit_l_14_336": 3}
LOWER = ("fd_", "kd_", "cmmd")
"""Beginnings of the names of distances; of all others more is better."""


def published_table(rows: Sequence[Row]) -> Table:
    """Published metrics against conditions, each with its interval.

    Raises:
        InputError: rows of different protocols.
    """
    rows = in_order(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.get("published") or {}))
    if not names:
        return Table("Published metrics", ["metric"], [], ["none has been measured: `unclip evaluate --metric`"])
    judges = check_protocols(rows).get("published") or {}
    body = []
    for name in names:
        arrow = "\u2193" if name.startswith(LOWER) else "\u2191"
        cells = [number((row.get("published") or {}).get(name), DIGITS.get(name, 2)) for row in rows]
        body.append([Cell(f"{name} {arrow}"), *cells])
    said = [f"{PUBLISHED[name].protocol}. Here: {judge}." for name, judge in judges.items()]
    if any(name.startswith("shapes_geneval") for name in names):
        said.append(
            "shapes_geneval: the classifier's exact accuracy, by the kind of caption, under GenEval's task names."
        )
    return Table("Published metrics", ["metric", *(label(row["condition"]) for row in rows)], body, said)
