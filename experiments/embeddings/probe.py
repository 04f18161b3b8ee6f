"""`unclip probe`: what a CLIP's image embeddings hold, by linear classifiers of each attribute.

What z_i does not hold, no decoder can draw: look here first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from datamodules.rendered.pairs import PairDataModule
from experiments.data.sources import load_data
from experiments.storage.folders import write_json
from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip probe`; returns the exit code."""
    data, _ = load_data(options.config, PairDataModule, embeddings=options.embeddings)
    result = probe(data, options.train, options.test)
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    print(f"{path}: " + ", ".join(f"{name} {value:.3f}" for name, value in result.items() if isinstance(value, float)))
    return 0


def probe(data: PairDataModule, train: int = 8000, test: int = 2000) -> dict[str, Any]:
    """Accuracy of logistic regression from z_i to each attribute, fitted on training pairs, judged on validation pairs.

    Args:
        data: with attributes and with embeddings attached.
        train, test: pairs of each, at most.

    Returns:
        background and count over all pictures; colour and shape over pictures of one object, and over both slots of
        pictures of two as colour_of_two and shape_of_two; and the numbers of pairs.

    Raises:
        InputError: data without attributes or without embeddings.
    """
    if data.attributes is None:
        raise InputError(f"{type(data).__name__} knows no attributes to probe for")
    z, truth = _rows(data, "train", train)
    z_test, truth_test = _rows(data, "val", test)
    columns = {name: k for k, name in enumerate(data.attributes)}
    lone, lone_test = (rows[:, columns["count"]] == 0 for rows in (truth, truth_test))

    def accuracy(column: str, keep: np.ndarray, keep_test: np.ndarray) -> float:
        k = columns[column]
        model = LogisticRegression(C=10.0, max_iter=500)
        model.fit(z[keep], truth[keep, k])
        return float(model.score(z_test[keep_test], truth_test[keep_test, k]))

    everything, everything_test = np.ones_like(lone), np.ones_like(lone_test)
    result: dict[str, Any] = {name: accuracy(name, everything, everything_test) for name in ("background", "count")}
    for name in ("colour", "shape", "size"):
        result[name] = accuracy(f"{name}_1", lone, lone_test)
        slots = [accuracy(f"{name}_{slot}", ~lone, ~lone_test) for slot in (1, 2)]
        result[f"{name}_of_two"] = float(np.mean(slots))
    return {**result, "train_pairs": len(z), "test_pairs": len(z_test)}


def _rows(data: PairDataModule, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    dataset = data.dataset(split)
    if dataset.embeddings is None:
        raise InputError("the probe needs embeddings: give --embeddings a folder that `unclip embed` wrote")
    rows = list(range(min(count, len(dataset))))
    attributes = dataset.records.attributes
    assert attributes is not None
    # Scaled so that an entry is of order 1, which is what the regression's penalty expects.
    z_i = dataset.embeddings[rows].z_i.numpy()
    return z_i * np.sqrt(z_i.shape[1]), attributes[rows]
