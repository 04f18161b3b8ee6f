"""The preference probe: which picture people prefer, by logistic regression on embedding differences (appendix A)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from eval.errors import InputError
from eval.judges.aesthetics import LinearProbe, unit
from eval.judges.folds import pair_folds
from eval.untrusted import MAX_TABLE, read_bytes


def fit_preference(better: np.ndarray, worse: np.ndarray, clip: str) -> LinearProbe:
    """Learns w such that w . (z_better - z_worse) is the log odds of the preference.

    Every pair counts in both orders and there is no intercept: an order of showing cannot be preferred.

    `held_out_accuracy` is the share of comparisons that a fit to comparisons of other images predicts correctly (the
    folds are `eval.judges.folds.pair_folds`). `held_out_n` is the number of these comparisons. It is less than the
    number of all if comparisons join so many images that folds without a common image cannot hold all of them. If no
    comparison is left, the accuracy is None.

    Args:
        better, worse: (N, D) CLIP image features of the picture that was preferred and of the other.
        clip: name of the CLIP.

    Raises:
        InputError: fewer than ten pairs.
    """
    if len(better) < 10 or better.shape != worse.shape:
        raise InputError(f"a preference probe needs 10 pairs or more, found {len(better)}")
    better, worse = unit(better), unit(worse)
    apart, right = better - worse, []
    for learned, judged in pair_folds(better, worse):
        right.append(apart[judged] @ _weights(apart[learned]) > 0)
    told = np.concatenate([*right, np.zeros(0, dtype=bool)])
    accuracy = float(told.mean()) if len(told) else None
    fit = {"n": len(apart), "held_out_accuracy": accuracy, "held_out_n": len(told)}
    return LinearProbe("preference", clip, _weights(apart), 0.0, fit)


def _weights(apart: np.ndarray) -> np.ndarray:
    """(D,) of the regression on differences (N, D), preferred less other."""
    from sklearn.linear_model import LogisticRegression

    x, y = np.concatenate([apart, -apart]), np.repeat([1, 0], len(apart))
    model = LogisticRegression(fit_intercept=False, C=10.0, max_iter=1000).fit(x, y)
    return np.asarray(model.coef_[0])


def probability_preferred(probe: LinearProbe, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) probability that a person prefers the first of two pictures, from their features (N, D)."""
    return 1 / (1 + np.exp(probe(second) - probe(first)))


def read_comparisons(path: str | Path) -> list[tuple[str, str]]:
    """(preferred image, other image) of each line of a csv with the columns better and worse.

    Raises:
        InputError: unreadable, or without these columns.
    """
    path = Path(path)
    try:
        text = io.StringIO(read_bytes(path, MAX_TABLE).decode("utf-8-sig"), newline="")
        rows = list(csv.DictReader(text, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the comparisons {path} ({error})") from error
    for number, row in enumerate(rows, 2):
        if not row.get("better") or not row.get("worse"):
            raise InputError(f"{path}:{number} lacks a value in the columns better and worse")
    return [(row["better"].strip(), row["worse"].strip()) for row in rows]
