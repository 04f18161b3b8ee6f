"""SAM: the gradient is taken where the loss around the weights is largest, and the weights come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from modules.clip.sam import Perturbation, frozen_statistics


def test_the_step_is_rho_along_the_gradient():
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([[3.0]]))
    other = nn.Parameter(torch.tensor([5.0]))  # not in the loss
    perturbation = Perturbation([a, b, other], rho=0.1)
    perturbation.climb(lambda: (a * torch.tensor([3.0, 0.0])).sum() + 4 * b.sum())
    assert_close(a.data, torch.tensor([1.06, 2.0]))
    assert_close(b.data, torch.tensor([[3.08]]))
    assert other.item() == 5.0
    assert a.grad is None  # nobody else sees this gradient
    perturbation.restore()
    assert torch.equal(a.data, torch.tensor([1.0, 2.0]))
    assert torch.equal(b.data, torch.tensor([[3.0]]))


def test_sam_on_a_parabola():
    """f = w^2 / 2 at w = 1: the gradient that SAM uses is that at 1 + rho."""
    w = nn.Parameter(torch.tensor(1.0))
    perturbation = Perturbation([w], rho=0.1)
    perturbation.climb(lambda: w**2 / 2)
    (w**2 / 2).backward()
    perturbation.restore()
    assert w.grad.item() == pytest.approx(1.1)
    assert w.item() == 1.0


def test_twice_without_restoring():
    w = nn.Parameter(torch.tensor(1.0))
    perturbation = Perturbation([w], rho=0.1)
    perturbation.climb(lambda: w * 1)
    with pytest.raises(RuntimeError, match="perturbed already"):
        perturbation.climb(lambda: w * 1)


def test_a_flat_loss_moves_nothing_and_rho_is_positive():
    w = nn.Parameter(torch.tensor(1.0))
    Perturbation([w], rho=0.1).climb(lambda: w * 0)
    assert w.item() == 1.0
    with pytest.raises(ValueError, match="rho must be positive, got 0"):
        Perturbation([w], rho=0)


def test_batch_norms_keep_their_running_statistics():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=0.3)).train()
    x = torch.randn(16, 3) + 2
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with frozen_statistics(network):
        out = network(x)
    assert_close(out, network(x))  # the batch's own statistics are in use
    after = network.state_dict()
    assert not torch.equal(after["0.running_mean"], before["0.running_mean"])  # by the second call
    assert network[2].momentum == 0.3
    network.load_state_dict(before)
    with frozen_statistics(network):
        network(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
