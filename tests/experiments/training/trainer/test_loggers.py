"""Stages that show pictures train with any logger; pictures go to those that can show them."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.training.fitting import missing_package
from modules.training.image_log import log_images, shows_images

EVERY = ("--trainer.val_check_interval=3", "--trainer.log_every_n_steps=1")
CSV = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=numbers")


def columns(path) -> set[str]:
    with path.open() as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


def test_numbers_go_to_a_csv_file_and_pictures_nowhere(fit, tmp_path):
    ran = fit(*EVERY, *CSV, stage="decoder")
    assert (ran.code, ran.step, ran.exported) == (0, 6, 6)
    (path,) = (tmp_path / "numbers").rglob("metrics.csv")
    assert {"train/loss", "val/loss", "step"} <= columns(path)
    assert "model: Decoder" in next((tmp_path / "numbers").rglob("hparams.yaml")).read_text()


def test_of_several_loggers_each_has_what_it_can_show(fit, tmp_path):
    board = "{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: board}}"
    table = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: numbers}}"
    ran = fit(*EVERY, f"--trainer.logger=[{table}, {board}]", stage="decoder")
    assert ran.code == 0
    (file,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("val/samples")] == [3, 6]
    assert next((tmp_path / "numbers").rglob("metrics.csv")).is_file()


def test_without_a_logger(fit):
    assert fit(*EVERY, "--trainer.logger=false", stage="decoder").code == 0


PACKAGES = {WandbLogger: "wandb", MLFlowLogger: "mlflow", CometLogger: "comet-ml"}


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_package_that_is_missing_is_named(kind):
    package = PACKAGES[kind]
    if find_spec(package.replace("-", "_")) is not None:
        pytest.skip("it is installed")
    with pytest.raises(ImportError) as error:
        kind()
    assert missing_package(error.value) == f"the package {package!r} is needed and not installed: pip install {package}"


def test_a_logger_whose_package_is_missing_is_one_line(fit):
    if find_spec("wandb") is not None:
        pytest.skip("it is installed")
    ran = fit("--trainer.logger=WandbLogger")
    assert ran.code == 2
    assert ran.err == "unclip: WandbLogger: the package 'wandb' is needed and not installed: pip install wandb\n"


class Calls(list):
    """A logger's experiment, which remembers what it is given."""

    def __getattr__(self, name):
        return lambda *args, **options: self.append((name, args, options))


def of_class(kind, **attributes):
    """A logger that has not been set up: its package need not be there."""
    made = type(kind.__name__, (kind,), {"experiment": None, "run_id": "run", **attributes})
    made.__abstractmethods__ = frozenset()
    return object.__new__(made)


def test_each_logger_is_given_pictures_as_it_wants_them():
    images = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    expected = np.array([0, 128, 255, 255], dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)
    given = {kind: Calls() for kind in (WandbLogger, MLFlowLogger, CometLogger)}
    loggers = [
        of_class(WandbLogger, log_image=given[WandbLogger].log_image),
        of_class(MLFlowLogger, experiment=given[MLFlowLogger]),
        of_class(CometLogger, experiment=given[CometLogger]),
        of_class(CSVLogger),
    ]
    log_images(loggers, "val/samples", images, 7)
    (wandb,) = given[WandbLogger]
    assert wandb[2]["key"] == "val/samples" and wandb[2]["step"] == 7
    assert all(np.array_equal(picture, expected) for picture in wandb[2]["images"])
    names = [options["key"] for _, _, options in given[MLFlowLogger]]
    assert names == ["val_samples_0", "val_samples_1"] and given[MLFlowLogger][0][1][0] == "run"
    assert np.array_equal(given[MLFlowLogger][1][1][1], expected)
    assert [options["name"] for _, _, options in given[CometLogger]] == ["val/samples_0", "val/samples_1"]
    assert np.array_equal(given[CometLogger][0][1][0], expected)


def test_pictures_are_drawn_for_loggers_that_show_them():
    assert not shows_images([]) and not shows_images([of_class(CSVLogger)])
    assert shows_images([of_class(CSVLogger), of_class(WandbLogger)])
    assert not shows_images([SimpleNamespace()])
