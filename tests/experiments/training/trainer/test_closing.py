"""The last lines of `unclip fit`, and the losses that it shows."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from experiments.training.callbacks import FitProgress, losses
from experiments.training.trainer.closing import closing, next_command


def trainer(root="runs/x/decoder", step=300, **metrics):
    return SimpleNamespace(
        callback_metrics={name.replace("_", "/", 1): torch.tensor(value) for name, value in metrics.items()},
        default_root_dir=str(root),
        global_step=step,
        estimated_stepping_batches=900,
        is_global_zero=True,
    )


METRICS = {"val_psnr": 31.25, "train_lr": 1e-3, "train_loss": 0.125, "val_loss": 0.25, "test_loss": 9.0}


def test_losses_come_first_and_the_rate_not_at_all():
    assert losses(trainer(**METRICS)) == "train/loss 0.125, val/loss 0.25, val/psnr 31.25"
    assert losses(trainer(**METRICS), "train") == "train/loss 0.125"
    assert losses(trainer()) == ""


def test_a_validation_is_a_line(capsys):
    shown = FitProgress()
    shown.on_validation_end(trainer(**METRICS), None)
    assert capsys.readouterr().out == ""  # `unclip validate`, and other ranks, have no progress.
    shown._progress = object()
    shown.on_validation_end(trainer(val_loss=0.25), None)
    assert capsys.readouterr().out == "decoder: step 300 of 900: val/loss 0.25\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("UNCLIP_RUN", raising=False)
    (tmp_path / "run" / "decoder" / "export").mkdir(parents=True)
    return tmp_path / "run" / "decoder"


def test_it_ends_with_the_export_and_what_comes_next(folder, monkeypatch, stored_run):
    module = SimpleNamespace()
    first, second = closing(trainer(folder, val_loss=0.25), module, folder, 62.0).splitlines()
    assert first == f"decoder: 300 steps done, 1:02 of this start (val/loss 0.25); export: {folder}/export"
    assert second.startswith(f"next: train clip, decoder, diffusion_prior into {folder.parent}/; then unclip sample")
    shutil.rmtree(folder.parent)
    shutil.copytree(stored_run, folder.parent)
    assert next_command(module, folder) == f'unclip sample "CAPTION" --run {folder.parent} --out pictures'
    monkeypatch.setenv("UNCLIP_RUN", str(folder.parent))  # Of a suite, the next command is known.
    assert "\n" not in closing(trainer(folder), module, folder, 1.0)
    assert closing(trainer(folder), module, folder / "none", 1.0).endswith(f"; in {folder / 'none'}")


def test_after_a_clip_one_embeds(folder, tiny):
    expected = f"unclip embed DATA --clip {folder}/export --out {folder.parent}/embeddings"
    assert next_command(tiny.make_stage("clip"), folder) == expected
