"""The benchmark of evaluation measures what `unclip evaluate` does with folders that it takes."""

from __future__ import annotations

import json
import subprocess

import pytest

from benchmarks import evaluation
from benchmarks.evaluation import Measured, caption, command, line, make_folder, make_judges
from experiments.cli import main


def test_the_command_measures_everything(tmp_path, monkeypatch):
    monkeypatch.delenv("UNCLIP_INCEPTION", raising=False)
    make_folder(tmp_path / "samples", 12, 32, "diffusion_prior", seed=1)
    folder = make_folder(tmp_path / "reference", 12, 32, "real", seed=2)
    assert len(set(folder.captions)) == 12 and folder.size == (32, 32)
    assert main([*command(tmp_path, make_judges(tmp_path)), "--bootstrap", "5"]) == 0
    row = json.loads((tmp_path / "samples" / "metrics.json").read_text())
    for name in ("frechet", "clip_score", "kid", "cmmd", "precision", "recall", "r_precision"):
        assert row[name] is not None, name
    assert list((tmp_path / "features").glob("*.npy"))


def test_captions_differ():
    assert len({caption(k) for k in range(30_000)}) == 30_000


def test_a_line():
    text = line(Measured(30_000, 120.0, 500.0, 640.4))
    assert text == "30,000 samples and as many real images: 120 s, 500 images/s, peak 640 MB"


def test_a_failure_is_no_measurement(tmp_path, monkeypatch):
    started = subprocess.Popen
    monkeypatch.setattr(evaluation.subprocess, "Popen", lambda words, **kwargs: started(["false"]))
    with pytest.raises(RuntimeError, match="of 6 images failed with 1"):
        evaluation.measure(6, 16, tmp_path)
    assert not list(tmp_path.iterdir())  # the scratch folder is gone
