"""The long run with learned sigma: what it prints, and that a number that is none ends it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.trials import learned_sigma
from modules.models.configs import Objective


@pytest.fixture
def run(embeddings, tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(learned_sigma, "SIZES", tiny.SIZES)
    monkeypatch.chdir(tmp_path)
    words = ["--steps", "4", "--every", "2", "--batch-size", "4", "--channels", "4", "--patch", "4", "--beta2", "0.91"]
    threads = torch.get_num_threads()
    yield lambda: learned_sigma.main(["--embeddings", str(embeddings), *words])
    torch.set_num_threads(threads)


def test_both_terms_are_told_as_it_goes(run, capsys):
    assert run() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 2", "step 4"]
    # Nothing is predicted at first, so that L_simple is the noise's variance.
    assert float(lines[0].split("L_simple ")[1].split(",")[0]) == pytest.approx(1.0, abs=0.05)
    assert lines[2] != lines[0]


def test_the_first_number_that_is_none_ends_it(run, monkeypatch, capsys):
    whole, calls = Objective.terms, []

    def spoilt(self, output, *rest):
        calls.append(1)
        found = whole(self, output, *rest)
        return {**found, "L_vlb": found["L_vlb"] * float("nan")} if len(calls) == 6 else found

    monkeypatch.setattr(Objective, "terms", spoilt)
    assert run() == 1
    assert "step 1: loss nan" in capsys.readouterr().out  # after four calls of the first line, and a step
