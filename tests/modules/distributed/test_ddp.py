"""Two processes under DDP do what one does at the batch of both: gradients, weights and averages, value by value."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

pytestmark = pytest.mark.timeout(600)  # the first test waits for the processes

STAGES = ["clip", "diffusion_prior", "narrow"]
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7)


@pytest.mark.parametrize("name", STAGES)
def test_gradients_are_those_of_one_process_at_the_same_batch(one, two, worker, rounding, name):
    """CLIP's contrastive loss is over both ranks' pairs: with local ones alone its gradients are others."""
    alone, _ = one(name)
    for rank in range(2):
        together = two(f"ddp_{name}", rank)
        first = together["gradients"][0]
        assert sum(bool(gradient.abs().max() > 1e-4) for gradient in first.values()) > len(first) / 2
        assert worker.apart(first, alone["gradients"][0]) <= rounding(name)


@pytest.mark.parametrize("name", STAGES)
def test_after_four_steps_weights_and_averages_are_the_same(one, two, name):
    alone, _ = one(name)
    for rank in range(2):
        together = two(f"ddp_{name}", rank)
        assert_close(together["weights"], alone["weights"], atol=2e-5, rtol=1e-4)
        assert len(together["averages"]) == 4
        assert_close(together["averages"], alone["averages"], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp2", marks=pytest.mark.skipif(OLD, reason="torch 2.7"))])
def test_two_batches_a_step_are_those_of_one_process(one, two, worker, rounding, kind):
    """Ranks exchange their gradients at the second batch, and what the first gave is not lost."""
    alone, _ = one("accumulated")
    for rank in range(2):
        together = two(f"{kind}_accumulated", rank)
        assert len(together["gradients"]) == 2
        for step in range(2):
            assert worker.apart(together["gradients"][step], alone["gradients"][step]) <= rounding("narrow")
        assert_close(together["weights"], alone["weights"], atol=2e-5, rtol=1e-4)
        assert_close(together["averages"][-1], alone["averages"][-1], atol=2e-5, rtol=1e-4)


def test_both_ranks_have_the_same_average_bit_for_bit(two):
    first, second = (two("ddp_narrow", rank)["averages"][-1] for rank in range(2))
    assert_close(first, second, atol=0, rtol=0)


def test_the_average_is_the_one_by_hand(two):
    """Decay 0.5: after the first step the weights, then the mean of the average and the new weights."""
    together = two("ddp_narrow")
    for name, last in together["averages"][-1].items():
        assert_close(last, (together["averages"][-2][name] + together["weights"][name]) / 2)
