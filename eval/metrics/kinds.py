"""Accuracy apart for kinds of captions: one object or two, combinations seen in training or held out.

Two objects ask for binding, held-out combinations for generalisation; the mean over all captions hides both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.objects.base import share

KINDS = {"one": "one object", "two": "two objects", "seen": "seen", "held_out": "held out"}
HELD_OUT = "held_out"
"""Manifest key: true where the caption names a combination that training never shows; absent where nobody knows."""


def kinds_of(record: Mapping[str, Any]) -> list[str]:
    """Which of `KINDS` a manifest line belongs to; none without ground truth."""
    if not record.get("mentioned"):
        return []
    found = {1: ["one"], 2: ["two"]}.get(len(record["mentioned"]["objects"]), [])
    return found + ([("held_out" if record[HELD_OUT] else "seen")] if HELD_OUT in record else [])


def accuracy_by_kind(
    records: Sequence[Mapping[str, Any]], right: np.ndarray, resampler: Resampler
) -> dict[str, dict[str, float] | None]:
    """The share of pictures with everything right, for each kind of caption.

    Args:
        records: N manifest lines.
        right: (N,) 1, 0, or nan where nothing was judged: "all" of `eval.metrics.scoring.score`.
        resampler: of the N samples.

    Returns:
        Each of `KINDS` -> {"value", "low", "high", "n"}, an interval over captions; None where there are none.
    """
    result: dict[str, dict[str, float] | None] = {}
    for kind in KINDS:
        chosen = np.array([kind in kinds_of(record) for record in records])
        column = np.where(chosen, right, np.nan)
        interval = as_json(share(column, resampler))
        result[kind] = interval and {**interval, "n": int((~np.isnan(column)).sum())}
    return result
