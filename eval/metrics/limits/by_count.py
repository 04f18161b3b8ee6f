"""Accuracy by the number of objects that a caption names (unCLIP's figure 17 as a number): where does it break?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.objects.base import share
from eval.metrics.scoring import OBJECT_ATTRIBUTES

COUNTED = ("object", "number", "all")
"""What is right: a named object has all that is said of it; as many objects are there as are named; both, for all."""
FEWEST = 3
"""Objects that some caption has to name for the table: one or two are kinds of captions already."""


def objects_right(predicted: Mapping[str, Any], mentioned: Mapping[str, Any]) -> int:
    """How many of the mentioned objects are there with all that is said of them, each seen object counting once.

    Args:
        predicted, mentioned: see `eval.metrics.scoring.score`.
    """
    from scipy.optimize import linear_sum_assignment

    fits = np.array([[_fits(seen, said) for seen in predicted["objects"]] for said in mentioned["objects"]], dtype=int)
    if fits.size == 0:
        return 0
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return int(fits[rows, columns].sum())


def _fits(seen: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    return all(said[name] in (None, seen[name]) for name in OBJECT_ATTRIBUTES)


def accuracy_by_count(
    predicted: Sequence[Mapping[str, Any] | None],
    mentioned: Sequence[Mapping[str, Any] | None],
    resampler: Resampler,
) -> dict[str, dict[str, Any]] | None:
    """`COUNTED`, each with its interval over captions, by the number of named objects.

    Args:
        predicted, mentioned: of N pictures; None where nothing was judged.
        resampler: of the N samples.

    Returns:
        {"1": {"object", "number", "all", "n"}, ...}; None where no caption names `FEWEST` objects.
    """
    named = np.array([0 if said is None else len(said["objects"]) for said in mentioned])
    if named.max(initial=0) < FEWEST:
        return None
    found: dict[str, dict[str, Any]] = {}
    for count in np.unique(named[named > 0]):
        rows = np.flatnonzero(named == count)
        columns = {name: np.full(len(named), np.nan) for name in COUNTED}
        for k in rows.tolist():
            seen, said = predicted[k], mentioned[k]
            assert seen is not None and said is not None
            right, as_many = objects_right(seen, said), len(seen["objects"]) == count
            columns["object"][k] = right / count
            columns["number"][k], columns["all"][k] = as_many, as_many and right == count
        intervals = {name: as_json(share(values, resampler)) for name, values in columns.items()}
        found[str(count)] = {**intervals, "n": len(rows)}
    return found
