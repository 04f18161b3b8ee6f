"""Memorisation: is a sample nearer to a real image than that image's own neighbours are (2022, Alaa et al.)?"""

from __future__ import annotations

import numpy as np

from eval.metrics.precision_recall import blocks, radii, squared_distances


def authentic(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N,) 1 where a sample is no copy: its nearest real image is nearer to another real image than to it.

    100 times the mean is AuthPct of dgm-eval (2023, Stein et al.). The reference should be the training images.

    Args:
        features: (N, D) of samples.
        reference: (M, D) of real images, two or more.

    Raises:
        ValueError: fewer than two real images.
    """
    if len(reference) < 2:
        raise ValueError(f"authenticity needs 2 real images or more, found {len(reference)}")
    shift = np.mean(reference, axis=0, dtype=np.float64)
    own = radii(reference, [1], shift)[:, 0]
    nearest, place = np.full(len(features), np.inf), np.zeros(len(features), dtype=np.int64)
    for rows, x in blocks(features, shift):
        for columns, y in blocks(reference, shift):
            squares = squared_distances(x, y)
            best = squares.argmin(1)
            found = squares[np.arange(len(x)), best]
            closer = found < nearest[rows]
            nearest[rows] = np.where(closer, found, nearest[rows])
            place[rows] = np.where(closer, best + columns.start, place[rows])
    return (own[place] < nearest).astype(np.float64)
