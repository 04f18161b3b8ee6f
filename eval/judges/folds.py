"""Folds of rated images for cross-validation: no image is both in the training part and in the held-out part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FOLDS = 5
SEED = 0  # of the order in which images are dealt to the parts


def same_image(features: np.ndarray) -> np.ndarray:
    """(N,) the number of the image that each of features (N, D) is of; equal rows are of the same image."""
    return np.asarray(np.unique(features, axis=0, return_inverse=True)[1]).reshape(-1)


def image_folds(features: np.ndarray) -> np.ndarray:
    """(N,) a part of 0 ... 4 for each of features (N, D), in a random order that is always the same."""
    image = same_image(features)
    return _shuffled(image.max() + 1)[image]


def pair_folds(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of pairs to learn from, and rows to judge by, that have no image in common; up to five times.

    Images that comparisons join, over any number of others, stay in one part, so that every pair is judged once. Where
    more than half of all images are joined to each other this way, images are dealt one by one: pairs of two parts are
    then left out of judging, and of learning too while one of these parts is judged.

    Args:
        first, second: (N, D) features of the images of each pair.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = same_image(np.concatenate([first, second])).reshape(2, -1)
    images = int(max(a.max(), b.max())) + 1
    _, group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(images, images)), directed=False)
    sizes = np.bincount(group)
    if 2 * sizes.max() > images:
        fold = _shuffled(images)
    else:
        fold = _balanced(np.bincount(group[a], minlength=len(sizes)))[group]
    for part in range(FOLDS):
        judged, learned = (fold[a] == part) & (fold[b] == part), (fold[a] != part) & (fold[b] != part)
        if judged.any() and learned.any():
            yield np.flatnonzero(learned), np.flatnonzero(judged)


def _shuffled(n: int) -> np.ndarray:
    """(n,) a part for each of n things, equally many in each."""
    return np.asarray(np.random.default_rng(SEED).permutation(n) % FOLDS)


def _balanced(sizes: np.ndarray) -> np.ndarray:
    """(G,) a part for each of G groups: from the largest on, each to the part that holds least."""
    shuffled = np.random.default_rng(SEED).permutation(len(sizes))
    held, fold = np.zeros(FOLDS), np.zeros(len(sizes), dtype=int)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[group] = held.argmin()
        held[fold[group]] += sizes[group]
    return fold
