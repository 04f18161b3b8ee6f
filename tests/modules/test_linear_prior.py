"""The linear prior is least squares."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.linear_prior import LinearPrior
from modules.training.stage import TrainingConfig


@pytest.fixture
def stage(tiny):
    optimizer = lambda params: torch.optim.LBFGS(params, lr=1.0, max_iter=30)  # noqa: E731
    return LinearPrior(tiny.make_network("linear_prior"), optimizer, TrainingConfig(warmup_steps=0, ema_decay=0.5))


def test_the_loss_is_the_squared_distance(stage, shapes):
    batch = shapes().dataset("train").__getitems__(range(8))
    rows = batch.embeddings
    network = stage.network.linear
    by_hand = (rows.z_t @ network.weight.T + network.bias - rows.z_i).square().sum(dim=1).mean()
    for given in (batch, rows):
        assert_close(stage.training_loss(given, stage.generator(0)), by_hand)


def test_it_learns_what_least_squares_solves(stage, shapes, tiny, tmp_path):
    data = shapes()
    everything = data.dataset("train").__getitems__(range(64))
    z_t = F.normalize(torch.randn(64, tiny.DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    rows = everything.embeddings._replace(z_t=z_t)
    tiny.fit(stage, tiny.repeat(data, rows, 20), 20, tmp_path, gradient_clip_val=0)
    known = torch.cat([rows.z_t, torch.ones(len(rows.z_t), 1)], dim=1).double()
    truth = rows.z_i.double()
    best = (known @ torch.linalg.lstsq(known, truth).solution - truth).square().sum(dim=1).mean().item()
    found = stage.validation_loss(rows, stage.generator(0)).item()
    assert best - 1e-6 < found < 1.001 * best
    # What it draws is of unit norm, and nearer to the truth than z_t is.
    judged = stage.judge(rows)
    direction = F.normalize(stage.averaged(rows.z_t), dim=1)
    assert_close(judged["cosine_to_z_i"], (direction * rows.z_i).sum(dim=1))
    assert judged["cosine_to_z_i"].mean() > 0.9 > judged["cosine_of_z_t"].mean()
