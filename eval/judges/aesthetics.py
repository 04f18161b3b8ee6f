"""The aesthetic probe: people's mean ratings, predicted from CLIP image embeddings by ridge regression (appendix A)."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.errors import InputError
from eval.files import write_file
from eval.judges.folds import image_folds
from eval.untrusted import MAX_TABLE, read_bytes, read_json, reason

ALPHAS = np.logspace(-4, 4, 17)
AVA_COLUMNS = 12  # running number, image number, then how often each of the ratings 1 to 10 was given; more may follow


@dataclass(frozen=True)
class LinearProbe:
    """A number for an embedding of unit norm: weights . z + bias.

    Attributes:
        kind: "aesthetic" or "preference".
        clip: name of the CLIP whose embeddings it reads, with the hash of its weights.
        weights: (D,).
        bias: a number.
        fit: how well it fits what it was made from: n, and a score on held-out parts.
    """

    kind: str
    clip: str
    weights: np.ndarray
    bias: float
    fit: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The probe's name in protocols: its CLIP's name, and 8 hexadecimal digits that tell it from other probes."""
        content = [self.kind, self.clip.split()[-1:], self.weights.tolist(), self.bias]
        return f"{self.clip}, probe {hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N,) values of CLIP image features (N, D) of any norm.

        Raises:
            InputError: features of another size.
        """
        if features.shape[1] != len(self.weights):
            raise InputError(
                f"the {self.kind} probe reads embeddings of {len(self.weights)} numbers by {self.clip}, found"
                f" {features.shape[1]}; fit it with the CLIP that judges"
            )
        return unit(features) @ self.weights + self.bias

    def save(self, path: str | Path) -> None:
        """Writes one JSON file."""
        content = {
            "kind": self.kind,
            "clip": self.clip,
            "weights": self.weights.tolist(),
            "bias": self.bias,
            "fit": dict(self.fit),
        }
        write_file(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path, kind: str, clip: str | None = None) -> LinearProbe:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, something else, another kind of probe, or one for another CLIP.
        """
        try:
            content = read_json(Path(path))
            probe = cls(
                str(content["kind"]),
                str(content["clip"]),
                np.array(content["weights"], dtype=np.float64),
                float(content["bias"]),
                dict(content["fit"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot read the {kind} probe {path} ({reason(error)}); fit one with `unclip judge`"
            ) from error
        if probe.kind != kind:
            raise InputError(f"{path} is a probe of {probe.kind}, not of {kind}")
        if clip is not None and probe.clip.split()[-1:] != clip.split()[-1:]:  # the weights' hash; names may differ
            raise InputError(f"{path} was fitted on embeddings by {probe.clip}, not by {clip}; fit it with that CLIP")
        return probe


def fit_aesthetic(features: np.ndarray, ratings: np.ndarray, clip: str) -> LinearProbe:
    """Ridge regression of ratings (N,) on CLIP image features (N, D); its strength by leave-one-out.

    `held_out_correlation` is of ratings with predictions by a fit to the other four fifths of the images, whatever the
    order of the ratings; both are taken from the mean of what was learned from, which alone would tell the parts apart.

    Raises:
        InputError: fewer than ten rated images, or all of one rating.
    """
    from sklearn.linear_model import RidgeCV

    if len(ratings) < 10 or np.ptp(ratings) == 0:
        raise InputError(f"an aesthetic probe needs 10 images or more with different ratings, found {len(ratings)}")
    x, y = unit(features), np.asarray(ratings, dtype=np.float64)
    model = RidgeCV(alphas=ALPHAS).fit(x, y)
    fold, held_out, apart = image_folds(x), np.zeros(len(y)), np.zeros(len(y))
    for part in np.unique(fold):
        judged, learned = fold == part, fold != part
        if learned.any():
            mean = y[learned].mean()
            held_out[judged] = RidgeCV(alphas=ALPHAS).fit(x[learned], y[learned]).predict(x[judged]) - mean
            apart[judged] = y[judged] - mean
    correlation = float(np.corrcoef(held_out, apart)[0, 1]) if np.ptp(held_out) and np.ptp(apart) else 0.0
    fit = {"n": len(y), "held_out_correlation": correlation, "alpha": float(model.alpha_)}
    return LinearProbe("aesthetic", clip, np.asarray(model.coef_), float(model.intercept_), fit)


def unit(features: np.ndarray) -> np.ndarray:
    """Features (N, D) in float64, of unit norm."""
    x = np.asarray(features, dtype=np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def read_ratings(path: str | Path) -> dict[str, float]:
    """Image name -> mean rating, from a csv with the columns image and rating, or from AVA's own file.

    AVA.txt has no heading: each line is a running number, an image's number, how often it was rated 1, 2, ... 10, and
    tags; its images are called <number>.jpg.

    Raises:
        InputError: unreadable, of neither format, a rating that is no number, or an image twice; with the line.
    """
    path = Path(path)
    try:
        lines = read_bytes(path, MAX_TABLE).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the ratings {path} ({error})") from error
    first = lines[0] if lines else ""
    named = {"image", "rating"} <= {name.strip() for name in first.split(",")}
    ava = len(first.split()) >= AVA_COLUMNS and all(word.isdigit() for word in first.split()[:AVA_COLUMNS])
    if not named and not ava:
        raise InputError(f"the first line of {path} has neither the headings image and rating nor AVA's columns")
    try:
        rows = _csv_rows(lines) if named else enumerate(map(_ava_row, lines), 1)
    except csv.Error as error:
        raise InputError(f"cannot read the ratings {path} ({error})") from error
    found: dict[str, float] = {}
    for number, row in rows:
        if row is None or not np.isfinite(row[1]):
            raise InputError(f"{path}:{number} holds no image and rating")
        if row[0] in found:
            raise InputError(f"{path}:{number} rates {row[0]} again")
        found[row[0]] = row[1]
    return found


def _csv_rows(lines: list[str]) -> list[tuple[int, tuple[str, float] | None]]:
    rows: list[tuple[int, tuple[str, float] | None]] = []
    for number, row in enumerate(csv.DictReader(lines, skipinitialspace=True), 2):
        try:
            rows.append((number, (row["image"].strip(), float(row["rating"]))))
        except (AttributeError, TypeError, ValueError):
            rows.append((number, None))
    return rows


def _ava_row(line: str) -> tuple[str, float] | None:
    try:
        numbers = [int(word) for word in line.split()[:AVA_COLUMNS]]
    except ValueError:
        return None
    counts = np.array(numbers[2:], dtype=np.float64)
    if len(numbers) < AVA_COLUMNS or counts.sum() <= 0:
        return None
    return f"{numbers[1]}.jpg", float(counts @ np.arange(1, 11) / counts.sum())
