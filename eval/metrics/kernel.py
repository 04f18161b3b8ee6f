"""Kernel distances of two sets of features: KID (2018, Binkowski et al.) and CMMD (2024, Jayasumana et al.).

Both are sums over pairs, taken block by block: memory grows with the number of features and not with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from eval.metrics.bootstrap import Interval, Resampler

BLOCK = 1024
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x . y / D + 1)^3 of all pairs: (N, D), (M, D) -> (N, M)."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # a power is 50 times slower


def gaussian_kernel(x: np.ndarray, y: np.ndarray, sigma: float = CMMD_SIGMA) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2)) of all pairs: (N, D), (M, D) -> (N, M)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.exp(-np.maximum(squares, 0) / (2 * sigma**2))


def _gaussian_of_directions(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return gaussian_kernel(*(v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)))


def kid(features: np.ndarray, reference: np.ndarray, resampler: Resampler | None = None) -> Interval:
    """The unbiased squared MMD of features (N, D) from reference (M, D) under the polynomial kernel.

    Computed over all pairs at once; the usual mean over random subsets estimates this value. It may be below 0.

    Args:
        features, reference: as they come from the extractor.
        resampler: for the interval over the captions of `features`; without it there is none (nan).

    Raises:
        ValueError: fewer than two of either, or different dimensions.
    """
    return _mmd(features, reference, polynomial_kernel, resampler, unbiased=True)


def cmmd(features: np.ndarray, reference: np.ndarray, resampler: Resampler | None = None) -> Interval:
    """1,000 times the squared MMD of CLIP image features under a Gaussian kernel of sigma 10, as its authors have it.

    Features are brought to unit norm here. The estimate is their biased one (pairs of a feature with itself count).
    """
    found = _mmd(features, reference, _gaussian_of_directions, resampler, unbiased=False)
    return Interval(*(CMMD_SCALE * v for v in found))


def _mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel, resampler: Resampler | None, unbiased: bool) -> Interval:
    if len(x) < 2 or len(y) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"a kernel distance needs 2 features or more of one size, found {x.shape} and {y.shape}")
    own, cross = _mean_similarity(x, x, kernel, unbiased), _mean_similarity(x, y, kernel, False)
    value = float(own.mean() + _mean_similarity(y, y, kernel, unbiased).mean() - 2 * cross.mean())
    if resampler is None:
        return Interval(value, float("nan"), float("nan"))
    # Drawing x again changes the distance to first order by the mean of this influence; the reference stays.
    influence = resampler.mean(2 * (own - cross))
    return Interval(value, value + influence.low - influence.value, value + influence.high - influence.value)


def _mean_similarity(x: np.ndarray, y: np.ndarray, kernel: Kernel, without_self: bool) -> np.ndarray:
    """(N,) mean of the kernel between each x and all y; without the pair of x with itself if y is x."""
    total = np.zeros(len(x))
    for start, block in _blocks(x):
        for _, other in _blocks(y):
            total[start : start + len(block)] += kernel(block, other).sum(1)
        if without_self:
            total[start : start + len(block)] -= np.array([kernel(v[None], v[None])[0, 0] for v in block])
    return total / (len(y) - without_self)


def _blocks(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(x), BLOCK):
        yield start, _float64(x[start : start + BLOCK])


def _float64(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)
