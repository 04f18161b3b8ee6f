"""Checkpoints: written whole, read without running code, and when."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from experiments.console.errors import guarded
from experiments.training.checkpoints import (
    AtomicCheckpointIO,
    Checkpoints,
    load_checkpoint,
    random_state,
    set_random_state,
    write_error,
)
from modules.errors import InputError


class Payload:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.arange(3), "b": {"c": (1, "x", None)}}, path)
    content = AtomicCheckpointIO().load_checkpoint(path)
    assert content["a"].tolist() == [0, 1, 2]
    assert content["b"] == {"c": (1, "x", None)}
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_save_leaves_the_last_good_one(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match=r"pickle|local object"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "bad": lambda: None}, path)
    assert load_checkpoint(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_in_one_line_and_the_last_checkpoint_stays(tmp_path, monkeypatch, capsys):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def save(content, file):
        with Path("/dev/full").open("wb") as full:
            full.write(b"x" * 100_000)

    monkeypatch.setattr(torch, "save", save)
    assert guarded(lambda: AtomicCheckpointIO().save_checkpoint({"step": 2}, path)) == 2
    assert capsys.readouterr().err.startswith(f"unclip: disk full while writing '{path}'")
    assert load_checkpoint(path) == {"step": 1}


def test_the_disk_full_behind_an_error_of_torch_is_found(tmp_path):
    error = RuntimeError("[enforce fail at inline_container.cc:671] unexpected pos")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    found = write_error(error, tmp_path / "last.ckpt")
    assert (type(found), found.errno, found.filename) == (OSError, errno.ENOSPC, str(tmp_path / "last.ckpt"))
    other = RuntimeError("something else")
    assert write_error(other, tmp_path / "last.ckpt") is other


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=r"evil.ckpt' cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "last.ckpt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(InputError, match=r"last.ckpt' cannot be read"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.ckpt' does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_random_state_comes_back_through_a_checkpoint(tmp_path):
    draw()
    AtomicCheckpointIO().save_checkpoint(random_state(), tmp_path / "a")
    expected = [draw() for _ in range(700)]
    set_random_state(load_checkpoint(tmp_path / "a"))
    assert [draw() for _ in range(700)] == expected


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Noted(Checkpoints):
    """Notes at which optimiser steps it saves, and after how many batches."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.saved = []

    def save(self, trainer):
        super().save(trainer)
        self.saved.append((trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx + 1))


def fit(folder, checkpoints, steps=7, accumulate=1):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        logger=False,
        callbacks=[checkpoints],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(torch.ones(100, 1)))
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_saved_every_n_steps_and_at_the_end(tmp_path):
    checkpoints = Noted(every_n_train_steps=3)
    fit(tmp_path, checkpoints)
    assert checkpoints.saved == [(3, 3), (6, 6), (7, 7)]
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 7
    assert load_checkpoint(tmp_path / "checkpoints" / "last-1.ckpt")["global_step"] == 6

    # Once at the last step: not before a stage has added what it may to its state.
    checkpoints = Noted(every_n_train_steps=3)
    fit(tmp_path / "other", checkpoints, steps=6)
    assert checkpoints.saved == [(3, 3), (6, 6)]


@pytest.mark.filterwarnings("ignore")
def test_never_between_the_batches_of_one_step(tmp_path, monkeypatch):
    checkpoints = Noted(every_n_train_steps=2)
    fit(tmp_path, checkpoints, accumulate=3)
    assert checkpoints.saved == [(2, 6), (4, 12), (6, 18), (7, 21)]


@pytest.mark.filterwarnings("ignore")
def test_saved_by_the_clock(tmp_path, monkeypatch):
    from experiments.training import checkpoints as module

    ticks = iter(range(0, 10_000, 20))  # every look at the clock finds 20 seconds gone
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))
    checkpoints = Noted(every_minutes=1.0)
    fit(tmp_path, checkpoints)
    assert checkpoints.saved == [(3, 3), (6, 6), (7, 7)]


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"every_minutes above 0 and checkpoint.keep 1 or more, not 0, -1 and 2"):
        Checkpoints(every_minutes=-1)
