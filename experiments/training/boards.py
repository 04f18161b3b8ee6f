"""What loggers show beside curves: the settings of a stage, and in TensorBoard's table of runs its last metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from experiments.storage.settings import flat
from experiments.training.stage_folder import CONFIG
from modules.untrusted.reading import read_yaml

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Value = bool | int | float | str
TRAINER = ("max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")


class HyperParameters(Callback):
    """Gives every logger the settings of a run.

    TensorBoard's table of runs (HPARAMS) shows settings beside the last metrics. So TensorBoard is given both at the
    end of the run, and other loggers are given the settings at its start.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir) / CONFIG
        if not trainer.is_global_zero or trainer.fast_dev_run or not path.is_file():  # type: ignore[attr-defined]
            return
        settings = hyperparameters(read_yaml(path))
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir) / CONFIG
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not trainer.is_global_zero or not boards or not path.is_file():
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if finite:
            settings = hyperparameters(read_yaml(path))
            for board in boards:
                board.log_metrics(finite, step=trainer.global_step)
                log_session(board.experiment, settings)


def log_session(writer: SummaryWriter, settings: Mapping[str, Value]) -> None:
    """Writes one row of TensorBoard's table of runs (HPARAMS); its metrics are the scalars of the same folder.

    `SummaryWriter.add_hparams` and Lightning's logger also write which columns the table has. TensorBoard then takes
    the columns of any one of its runs for all of them. Left to itself it collects the settings of all runs and shows
    first those that differ.
    """
    from torch.utils.tensorboard.summary import hparams

    _columns, start, end = hparams(dict(settings), {})
    for summary in (start, end):
        writer._get_file_writer().add_summary(summary)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Value]:
    """The settings of a stage's config.yaml that decide what it learns, by short names, as model.network.width."""
    found: dict[str, Any] = {"seed": config.get("seed_everything")}
    for section in ("model", "data"):
        for name, value in flat(config.get(section) or {}, section).items():
            if value == {}:
                continue
            short = name.replace(".init_args", "")
            if short.endswith(".class_path"):
                short, value = short.removesuffix(".class_path"), str(value).rpartition(".")[2]
            found[short] = value
    found |= {name: (config.get("trainer") or {}).get(name) for name in TRAINER}
    return {name: plain(value) for name, value in found.items() if value is not None}


def plain(value: Any) -> Value:
    """A value that TensorBoard can hold: lists and other types become text."""
    return value if isinstance(value, bool | int | float | str) else str(value)
