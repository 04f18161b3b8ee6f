"""The benchmarks: pairs are timed in turns, ratios are medians, and both sides compute networks of one size."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.timings import cases, peers, timing
from benchmarks.timings.cases import rows
from benchmarks.timings.setting import PRIOR, Bench
from benchmarks.timings.timing import paired
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork
from modules.networks.unet import UNet, UNetConfig

CPU = torch.device("cpu")


def test_the_case_of_winograds_convolutions_says_which_of_them_are_chosen(monkeypatch):
    monkeypatch.setattr(cases, "product", lambda *_: iter([(8, (64, 64), 64), (4, (16, 16), 1)]))
    found = [result.name for result in rows(Bench(CPU, pairs=1), only="winograd")]
    chosen = ("winograd_64-64_8px_b64_training*", "winograd_64-64_8px_b64_drawing*")
    assert found == [*chosen, "winograd_16-16_4px_b1_training", "winograd_16-16_4px_b1_drawing"]


def test_pairs_are_taken_in_turns_and_the_ratio_is_their_median(monkeypatch):
    order, times = [], iter([2.0, 4.0, 1.0, 5.0, 2.0, 6.0])
    monkeypatch.setattr(timing, "seconds", lambda run, device: run() or next(times))
    result = paired("x", lambda: order.append("o"), "peer", lambda: order.append("p"), CPU, pairs=3)
    assert "".join(order) == "op" * 4  # the first is a warm-up
    assert (result.ours_s, result.peer_s, result.ratio) == (2.0, 5.0, 3.0)
    assert (result.low, result.high, result.pairs) == (2.0, 5.0, 3)
    assert result.peak_share is None
    written = {"name": "x", "ours_s": 2.0, "peer": "peer", "peer_s": 5.0, "ratio": 3.0}
    assert result.as_dict() == {**written, "device": timing.device_name(CPU)}


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
    assert 0 < result.peak_share < 1.5


def test_the_share_of_the_peak(monkeypatch):
    """Of products alone it is 1; the clock is taken out of it."""
    monkeypatch.setattr(timing, "seconds", lambda run, device: run() is None or 2.0)
    assert timing.matrix_peak(CPU, torch.float32, 100) == 2 * 100**3 / 2.0
    bench = Bench(CPU)
    bench.__dict__["peak"] = 1e6
    assert bench.at_peak(lambda: torch.ones(50, 20) @ torch.ones(20, 10)) == 2 * 50 * 20 * 10 / 1e6
    times = iter([0.1, 1.0] * 3)
    monkeypatch.setattr(timing, "seconds", lambda run, device: next(times))
    assert paired("x", lambda: None, "peer", lambda: None, CPU, 3, 0.02).peak_share == pytest.approx(0.2)


def test_the_file_has_the_keys_that_are_promised(monkeypatch, tmp_path, capsys):
    from benchmarks import __main__ as command

    results = [timing.Result(name, 1.0, "diffusers", 2.0, 2.0, 1.9, 2.1, "cpu", 3, 0.5) for name in "ab"]
    monkeypatch.setattr(command, "rows", lambda bench, only: iter(results))
    words = ["bench", "--out", str(tmp_path / "deep" / "bench.json")]
    monkeypatch.setattr("sys.argv", words)
    threads = torch.get_num_threads()
    command.main()
    found = json.loads((tmp_path / "deep" / "bench.json").read_text())
    assert [list(row) for row in found] == [["name", "ours_s", "peer", "peer_s", "ratio", "device"]] * 2
    # A case that is timed again takes its own place and leaves the others.
    again = timing.Result("b", 1.5, "diffusers", 3.0, 2.0, 1.9, 2.1, "cpu", 3, 0.5)
    monkeypatch.setattr(command, "rows", lambda bench, only: iter([again]))
    monkeypatch.setattr("sys.argv", [*words, "--only", "b"])
    command.main()
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "deep" / "bench.json").read_text())
    assert [(row["name"], row["ours_s"]) for row in found] == [("a", 1.0), ("b", 1.5)]
    assert "2.00x (1.90 to 2.10 in 3 pairs), 50 % of the matrix peak" in capsys.readouterr().out
