"""All numbers of rows as csv: one line a condition and metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COLUMNS = ("condition", "metric", "value", "low", "high", "n")


def flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, interval) of everything that was measured, "accuracy/colour" and so on."""
    for name, content in row.items():
        if isinstance(content, Mapping) and name not in ("protocol", "drawn"):
            yield from _named(name, content)


def _named(name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(content.get("value"), int | float):
        yield name, content
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _named(f"{name}/{key}", value)


def flat_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A csv with `COLUMNS` of rows of the main table; n is the samples that the number is of."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        for name, found in flat(row):
            limits = [repr(found[key]) for key in ("value", "low", "high")]
            writer.writerow([row["condition"], name, *limits, found.get("n", row["n"])])
    return out.getvalue()
