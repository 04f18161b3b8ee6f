"""Accuracy apart for kinds of captions: one object or two, combinations seen in training or held out.

Two objects ask for binding, held-out combinations for generalisation; the mean over all captions hides both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.bootstrap import Resampler, as_json
from eval.tables import Cell, Row, Table, in_order, label, number

KINDS = {"one": "one object", "two": "two objects", "seen": "seen", "held_out": "held out"}
HELD_OUT = "held_out"
"""Manifest key: true where the caption names a combination that training never shows; absent where nobody knows."""


def kinds_of(record: Mapping[str, Any]) -> list[str]:
    """Which of `KINDS` a manifest line belongs to; none without ground truth."""
    if not record.get("mentioned"):
        return []
    found = ["one" if len(record["mentioned"]["objects"]) == 1 else "two"]
    return found + ([("held_out" if record[HELD_OUT] else "seen")] if HELD_OUT in record else [])


def accuracy_by_kind(
    records: Sequence[Mapping[str, Any]], right: np.ndarray, resampler: Resampler
) -> dict[str, dict[str, float] | None]:
    """The share of pictures with everything right, for each kind of caption.

    Args:
        records: N manifest lines.
        right: (N,) 1, 0, or nan where nothing was judged: "all" of `eval.scoring.score`.
        resampler: of the N samples.

    Returns:
        Each of `KINDS` -> {"value", "low", "high", "n"}, an interval over captions; None where there are none.
    """
    result: dict[str, dict[str, float] | None] = {}
    for kind in KINDS:
        chosen = np.array([kind in kinds_of(record) for record in records])
        column = np.where(chosen, right, np.nan)
        interval = as_json(resampler.share(column))
        result[kind] = interval and {**interval, "n": int((~np.isnan(column)).sum())}
    return result


def kind_table(rows: Sequence[Row]) -> Table:
    """Conditions against kinds of captions, each share with its interval and its number of samples."""
    known = in_order([row for row in rows if row.get("accuracy_by_kind")])
    there = [kind for kind in KINDS if any(row["accuracy_by_kind"].get(kind) for row in known)]
    body = []
    for row in known:
        cells = [Cell(label(row["condition"]))]
        for kind in there:
            found = row["accuracy_by_kind"].get(kind)
            cells += [number(found, 2), Cell(str(found["n"]) if found else "0")]
        body.append(cells)
    columns = ["condition", *(head for kind in there for head in (f"{KINDS[kind]} ↑", f"n, {KINDS[kind]}"))]
    said = [
        "Share of samples with everything right that the caption mentions, by the classifier. One object, two objects:"
        " as many as the caption names. Intervals as in the main table; n: samples of that kind.",
    ]
    if not known:
        said = ["nothing to judge: no ground truth, or nothing has been evaluated with --classifier"]
    elif HELD_OUT in there or "seen" in there:
        said.append(
            "Held out: the caption names a (colour, shape) that no training or validation picture shows. The"
            " classifier was trained on all combinations if its YAML says so; its own row is that of real images."
        )
    else:
        said.append(
            "Seen and held out are left out: these manifests do not say which captions name held-out combinations;"
            " write them again with `unclip data export` and `unclip sample`."
        )
    return Table("Accuracy by kind of caption", columns, body, said)
