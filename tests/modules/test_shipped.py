"""Weights that come with the package, and which run is drawn with where none is named."""

from __future__ import annotations

import os
import shutil

import pytest

from modules import shipped
from modules.errors import InputError
from modules.pipeline import UnCLIP


@pytest.fixture
def weights(stored_run, tmp_path, monkeypatch):
    """A package with the weights of `stored_run` as shipped:tiny."""
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    for stage in ("clip", "decoder", "diffusion_prior"):
        shutil.copytree(stored_run / stage / "export", tmp_path / "tiny" / stage)
    return tmp_path / "tiny"


def test_a_name_is_a_run(weights):
    assert shipped.shipped_names() == ["tiny"]
    assert shipped.run_folder("shipped:tiny") == weights
    assert UnCLIP.from_run("shipped:tiny").run == weights
    assert str(shipped.run_folder("runs/mine")) == "runs/mine"
    with pytest.raises(InputError, match="'shipped:none' come with the package; there are shipped:tiny"):
        UnCLIP.from_run("shipped:none")


def test_the_newest_trained_run_else_what_is_shipped(stored_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert shipped.newest_run() == "shipped:shapes"
    for age, name in enumerate(("older", "newer", "unfinished")):
        shutil.copytree(stored_run, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "decoder" / "export" / "model.safetensors"
        os.utime(file, (1000 + age, 1000 + age))
    shutil.rmtree(tmp_path / "runs" / "unfinished" / "diffusion_prior")
    assert shipped.newest_run() == "runs/newer"
    assert shipped.chosen_run(None) == "runs/newer"
    assert "run: runs/newer" in capsys.readouterr().err
    assert shipped.chosen_run("runs/older") == "runs/older"
    assert not capsys.readouterr().err
