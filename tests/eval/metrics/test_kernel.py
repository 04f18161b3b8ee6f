"""KID and CMMD against other people's code on the same features, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.metrics import kernel
from eval.metrics.bootstrap import Resampler
from eval.metrics.kernel import cmmd, gaussian_kernel, kid


def features(n: int = 60, d: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(loc=shift, size=(n, d)).astype(np.float32)


def test_kid_is_that_of_torch_fidelity_and_torchmetrics():
    from torch_fidelity.metric_kid import kernel_poly, mmd2
    from torchmetrics.image.kid import poly_mmd

    x, y = features().astype(np.float64), features(seed=1, shift=0.3).astype(np.float64)
    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    expected = mmd2(kernel_poly(x, x, **settings), kernel_poly(x, y, **settings), kernel_poly(y, y, **settings))
    assert kid(x, y).value == pytest.approx(expected, rel=1e-10)
    assert kid(x, y).value == pytest.approx(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)).item(), rel=1e-10)


def test_kid_is_what_clean_fid_estimates_from_subsets():
    from cleanfid.fid import kernel_distance

    x, y = features(400), features(400, seed=1, shift=0.3)
    rng_state = np.random.get_state()  # noqa: NPY002 (clean-fid draws its subsets from the global state)
    np.random.seed(0)  # noqa: NPY002
    estimate = kernel_distance(x.astype(np.float64), y.astype(np.float64), num_subsets=400, max_subset_size=100)
    np.random.set_state(rng_state)  # noqa: NPY002
    assert kid(x, y).value == pytest.approx(estimate, rel=0.05)


def test_cmmd_is_the_authors_formula():
    x, y = features(50, 6), features(70, 6, seed=1, shift=0.2)
    u, v = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x.astype(np.float64), y.astype(np.float64)))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:  # spelt out: gamma = 1 / (2 * 10^2)
        return float(np.mean([[np.exp(-0.005 * ((p - q) ** 2).sum()) for q in b] for p in a]))

    expected = 1000 * (mean_kernel(u, u) + mean_kernel(v, v) - 2 * mean_kernel(u, v))
    assert cmmd(x, y).value == pytest.approx(expected, rel=1e-6)
    assert cmmd(3 * x, y).value == pytest.approx(expected, rel=1e-6)  # only directions count


def test_gaussian_kernel_at_two_points():
    found = gaussian_kernel(np.zeros((1, 2)), np.array([[3.0, 4.0]]), sigma=5)
    assert found[0, 0] == pytest.approx(np.exp(-0.5))


def test_blocks_are_of_no_account(monkeypatch: pytest.MonkeyPatch):
    x, y = features(37), features(29, seed=1, shift=0.5)
    whole = kid(x, y).value, cmmd(x, y).value
    monkeypatch.setattr(kernel, "BLOCK", 5)
    assert (kid(x, y).value, cmmd(x, y).value) == pytest.approx(whole, rel=1e-10)


def test_equal_distributions_are_at_zero_and_unbiased():
    values = [kid(features(40, seed=2 * k), features(40, seed=2 * k + 1)).value for k in range(1, 200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert kid(features(40, shift=1), features(40, seed=1)).value > 10 * np.std(values)


def test_interval_is_as_wide_as_new_samples_spread():
    reference = features(300, 4, seed=9)
    drawn = [features(100, 4, seed=k, shift=0.5) for k in range(1, 80)]
    values = [kid(x, reference).value for x in drawn[:60]]
    widths = [(lambda i: i.high - i.low)(kid(x, reference, Resampler(np.arange(100), 200, 0))) for x in drawn[:10]]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.25)


def test_too_few():
    with pytest.raises(ValueError, match="2 features or more"):
        kid(features(1), features())
    with pytest.raises(ValueError, match="of one size"):
        kid(features(d=3), features())
