"""The benchmarks: pairs are timed in turns, ratios are medians, and both sides compute networks of one size."""

from __future__ import annotations

import pytest
import torch

from benchmarks import peers, timing
from benchmarks.cases import PRIOR, Bench, rows
from benchmarks.timing import paired
from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.unet import UNet, UNetConfig

CPU = torch.device("cpu")


def test_pairs_are_taken_in_turns_and_the_ratio_is_their_median(monkeypatch):
    order, times = [], iter([2.0, 4.0, 1.0, 5.0, 2.0, 6.0])
    monkeypatch.setattr(timing, "seconds", lambda run, device: run() or next(times))
    result = paired("x", lambda: order.append("o"), "peer", lambda: order.append("p"), CPU, pairs=3)
    assert "".join(order) == "op" * 4  # the first is a warm-up
    assert (result.ours_s, result.peer_s, result.ratio) == (2.0, 5.0, 3.0)
    assert (result.low, result.high, result.pairs) == (2.0, 5.0, 3)
    assert {"name", "ours_s", "peer", "peer_s", "ratio", "device"} <= result.as_dict().keys()


def test_the_decoders_are_of_one_size_to_the_parameter():
    ours = UNet(UNetConfig(64, (1, 2, 3, 4), 1, (32, 16, 8), 64), 3, 6, 16)
    theirs = peers.diffusers_unet(64, 1, 16)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_the_priors_are_of_one_size():
    sizes = {**PRIOR, "width": 64, "depth": 2}
    ours = DiffusionPriorNetwork(64, **sizes)
    theirs = peers.DiffusersPrior(*sizes.values())
    counts = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_the_cases_run(monkeypatch):
    monkeypatch.setattr(peers, "available", lambda name: name == "diffusers")
    (result,) = rows(Bench(CPU, pairs=1, shrink=32), only="prior_training")
    assert result.peer == "diffusers"
    assert result.ratio > 0
