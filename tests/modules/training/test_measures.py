"""Validation's numbers: means over samples on any ranks, the small Frechet distance, PSNR and SSIM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.testing import assert_close

from modules.training.measures import Measures, SmallFrechet, psnr, ssim, thumbnails


def test_a_mean_is_over_samples_and_not_over_batches():
    """Of unequal batches, on ranks that the split does not divide: seven samples, of which one rank sees two."""
    values = torch.tensor([1.0, 0, 0, 1, 1, 1, 0])
    first, second = Measures(), Measures()
    first.mean("retrieval", values[:4])
    metric = first.mean("retrieval", values[4:5])
    metric.merge_state(second.mean("retrieval", values[5:]))
    assert metric.compute() == pytest.approx(4 / 7)
    assert list(first) == ["retrieval"] and not first.state_dict()  # nothing for checkpoints


def test_nan_is_left_out_and_a_scalar_is_one_sample():
    measures = Measures()
    measures.mean("x", torch.tensor([1.0, torch.nan, 3.0]))
    assert measures.mean("x", torch.tensor(5.0)).compute() == 3.0


def test_the_small_frechet_distance_is_that_of_the_formula_over_all_ranks():
    g = torch.Generator().manual_seed(0)
    drawn, real = torch.randn(41, 5, generator=g), 1 + 2 * torch.randn(40, 5, generator=g)
    ranks = [SmallFrechet(5), SmallFrechet(5)]
    for rank, metric in enumerate(ranks):
        metric.update(drawn[rank::2], real=False)
        metric.update(real[rank::2], real=True)
    ranks[0].merge_state(ranks[1])
    a, b = drawn.double().numpy(), real.double().numpy()
    s, t = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert ranks[0].compute().item() == pytest.approx(expected, rel=1e-5)


def test_psnr_and_ssim_know_the_same_picture_and_a_worse_one():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 16, 16, generator=g) * 2 - 1
    assert_close(ssim(truth, truth), torch.ones(2))
    flat = torch.full_like(truth, 0.25)  # no structure: (2 a b + c1)(c2) / ((a^2 + b^2 + c1)(s + c2)) at most
    assert (ssim(flat, truth) < 0.1).all() and (psnr(flat, truth) < 15).all()


def test_thumbnails_are_means_of_quarters():
    image = torch.zeros(1, 3, 8, 8)
    image[..., :2] = 1.0
    found = thumbnails(image).reshape(3, 4, 4)
    assert found.shape == (3, 4, 4) and found[:, :, 0].min() > 0.6 and found[:, :, 2:].abs().max() < 1e-6
