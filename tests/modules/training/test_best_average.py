"""The average that did best in validation is what is exported; every number here is worked out by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from experiments.training.trainer.exports import ExportParts
from modules.errors import InputError
from modules.models.data_sizes import DataSizes
from modules.training.best_average import KEY, BestAverage
from modules.training.stage import Stage, TrainingConfig

VALUES = [1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
"""A step subtracts 0.1 times the value from w, which begins as 1. The average (decay 0.5) is 0.85 after two steps,
0.9375 after four, 1.109375 after six."""


class Rows(NamedTuple):
    x: torch.Tensor
    index: torch.Tensor


class Line(Stage):
    """The loss is w x; validation logs w as the loss and as a score."""

    def __init__(self, **training) -> None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.ones_(network.weight)
        super().__init__(
            network,
            lambda params: torch.optim.SGD(params, lr=0.1),
            TrainingConfig(ema_decay=0.5, warmup_steps=0, **training),
        )

    def training_loss(self, batch, generator):
        return self.network(batch.x).mean()

    def validation_loss(self, batch, generator):
        return self.averaged(torch.ones(1, 1)).mean()

    def judge(self, batch):
        return {"score": self.averaged.weight.detach()[0]}


class Batches(lightning.LightningDataModule):
    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self.rows = [Rows(torch.tensor([[v]]), torch.tensor([k])) for k, v in enumerate(VALUES)]
        self.first = first

    def train_dataloader(self):
        return DataLoader(self.rows[self.first :], batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.rows[:1], batch_size=None)


def run(tiny, folder, stage, steps=6, first=0, **trainer):
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": "x.Line"}, "data": {}}))
    settings = {"val_check_interval": 2, "limit_val_batches": 1, "gradient_clip_val": 0, **trainer}
    return tiny.fit(stage, Batches(first), steps, folder, **settings)


def exported(folder):
    return load_file(folder / "export" / "model.safetensors")["weight"].item()


@pytest.mark.parametrize(
    ("training", "weight", "step"),
    [
        ({}, 1.109375, 6),
        ({"keep_best": "val/loss"}, 0.85, 2),
        ({"keep_best": "val/loss", "keep_best_mode": "max"}, 1.109375, 6),
        ({"keep_best": "val/score", "keep_best_mode": "min"}, 0.85, 2),
    ],
)
def test_the_export_is_the_average_at_the_best_validation(tiny, tmp_path, training, weight, step):
    run(tiny, tmp_path, Line(**training))
    assert exported(tmp_path) == pytest.approx(weight)
    assert yaml.safe_load((tmp_path / "export" / "config.yaml").read_text())["step"] == step


def test_without_a_validation_the_last_average_is_exported(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss"), limit_val_batches=0)
    assert exported(tmp_path) == pytest.approx(1.109375)


def test_a_run_in_two_parts_keeps_the_best_of_both_and_trains_as_without(tiny, tmp_path):
    folders = [tmp_path / name for name in ("whole", "parts", "plain")]
    for folder in folders:
        folder.mkdir()
    whole, parts, plain = folders
    trainer = run(tiny, whole, Line(keep_best="val/loss"))
    trainer.save_checkpoint(whole / "end.ckpt")
    run(tiny, plain, Line()).save_checkpoint(plain / "end.ckpt")

    middle = run(tiny, parts, Line(keep_best="val/loss"), steps=4)
    middle.save_checkpoint(parts / "middle.ckpt")
    assert exported(parts) == pytest.approx(0.85)
    run(tiny, parts, Line(keep_best="val/loss"), first=4, resumed=parts / "middle.ckpt").save_checkpoint(
        parts / "end.ckpt"
    )
    assert exported(parts) == exported(whole)

    ends = [torch.load(folder / "end.ckpt", weights_only=True) for folder in folders]
    assert [end.get(KEY, {}).get("step") for end in ends] == [2, 2, None]
    for end in ends:  # Training goes on from the average after the last step, not from the best.
        assert end["state_dict"]["average.module.weight"].item() == pytest.approx(1.109375)
        assert end["state_dict"]["network.weight"].item() == pytest.approx(1.2)


class SaveBeforeValidation(Callback):
    """Writes before.ckpt after the second step, of which the validation is still to come."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "before.ckpt")


def test_a_validation_that_the_checkpoint_had_not_seen_is_made_up_for(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss"), callbacks=[SaveBeforeValidation()])
    assert KEY not in torch.load(tmp_path / "before.ckpt", weights_only=True)
    shutil.rmtree(tmp_path / "export")
    trainer = run(tiny, tmp_path, Line(keep_best="val/loss"), first=2, resumed=tmp_path / "before.ckpt")
    assert exported(tmp_path) == pytest.approx(0.85)
    assert trainer.global_step == 6
    assert yaml.safe_load((tmp_path / "export" / "config.yaml").read_text())["step"] == 2


def test_a_run_that_goes_on_from_its_end_exports_the_same(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss")).save_checkpoint(tmp_path / "end.ckpt")
    shutil.rmtree(tmp_path / "export")
    run(tiny, tmp_path, Line(keep_best="val/loss"), first=6, resumed=tmp_path / "end.ckpt")
    assert exported(tmp_path) == pytest.approx(0.85)
    config = yaml.safe_load((tmp_path / "export" / "config.yaml").read_text())
    assert (config["step"], config["chosen"]) == (2, {"by": "min val/loss", "of_steps": 6})


def test_a_second_fit_goes_on_from_the_last_average(tiny, tmp_path):
    stage = Line(keep_best="val/loss")
    run(tiny, tmp_path, stage, steps=4)
    assert stage.averaged.weight.item() == pytest.approx(0.85)
    before = tmp_path / "middle.ckpt"
    stage.trainer.save_checkpoint(before)
    run(tiny, tmp_path, stage, first=4, resumed=before).save_checkpoint(tmp_path / "end.ckpt")
    end = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert end["state_dict"]["average.module.weight"].item() == pytest.approx(1.109375)


def test_the_best_by_another_measure_is_not_taken_over(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss"), steps=4).save_checkpoint(tmp_path / "middle.ckpt")
    other = Line(keep_best="val/score", keep_best_mode="max")
    run(tiny, tmp_path, other, first=4, resumed=tmp_path / "middle.ckpt")
    assert (other.best.step, exported(tmp_path)) == (6, pytest.approx(1.109375))


def test_a_checkpoint_is_read_without_a_trainer(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss")).save_checkpoint(tmp_path / "end.ckpt")
    content = torch.load(tmp_path / "end.ckpt", weights_only=True)
    Line(keep_best="val/loss").on_load_checkpoint(content)
    assert content["state_dict"]["average.module.weight"].item() == pytest.approx(0.85)


def test_parts_are_of_their_own_steps(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss"), callbacks=[ExportParts(3)])
    found = [
        load_file(tmp_path / "parts" / str(k) / "export" / "model.safetensors")["weight"].item() for k in (1, 2, 3)
    ]
    assert found == pytest.approx([0.85, 0.9375, 1.109375])
    steps = [
        yaml.safe_load((tmp_path / "parts" / str(k) / "export" / "config.yaml").read_text())["step"] for k in (1, 2, 3)
    ]
    assert steps == [2, 4, 6]


def test_validation_of_a_checkpoint_judges_the_best_average(tiny, tmp_path):
    run(tiny, tmp_path, Line(keep_best="val/loss")).save_checkpoint(tmp_path / "end.ckpt")
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False)
    (found,) = trainer.validate(
        Line(keep_best="val/loss"), datamodule=Batches(), ckpt_path=tmp_path / "end.ckpt", verbose=False
    )
    assert found["val/loss"] == pytest.approx(0.85)


def test_values_that_are_no_numbers_and_equal_ones_do_not_replace_the_best():
    network = nn.Linear(1, 1, bias=False)
    best = BestAverage("val/loss")
    for step, (value, weight) in enumerate([(float("nan"), 1.0), (0.5, 2.0), (0.5, 3.0), (float("nan"), 4.0)]):
        nn.init.constant_(network.weight, weight)
        best.see({"val/loss": value}, step, network)
    best.put_into(network)
    assert (best.value, best.step, network.weight.item()) == (0.5, 1, 2.0)


def test_a_measure_that_is_not_logged_is_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"keep_best is 'val/los', .*; it logs val/loss, val/score"):
        run(tiny, tmp_path, Line(keep_best="val/los"))


def test_only_measures_of_validation_are_taken():
    with pytest.raises(InputError, match=r"training.keep_best is 'train/loss': give a measure of validation, as val/"):
        Line(keep_best="train/loss").check_settings(DataSizes())


def test_a_sharded_networks_best_average_is_refused(monkeypatch):
    stage = Line(keep_best="val/loss")
    stage._device_mesh = object()
    stage._trainer = SimpleNamespace(precision_plugin=None)
    monkeypatch.setattr("modules.training.stage.check_precision", lambda plugin: None)
    with pytest.raises(InputError, match=r"keep_best: a sharded network's best average is not kept"):
        stage.configure_model()
