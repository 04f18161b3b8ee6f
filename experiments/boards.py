"""What TensorBoard shows beside curves: hyperparameters with final metrics, of stages and of evaluated conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from experiments.run_folder import CONFIG
from experiments.settings import flat

Value = bool | int | float | str
TRAINER = ("max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")
EVALUATION = "evaluation"


class HyperParameters(Callback):
    """When a run has reached its end: its settings and its last metrics, for TensorBoard's table of runs (HPARAMS)."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir) / CONFIG
        logger = trainer.logger
        if not trainer.is_global_zero or not isinstance(logger, TensorBoardLogger) or not path.is_file():
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if finite:
            settings = hyperparameters(yaml.safe_load(path.read_text(encoding="utf-8")))
            logger.log_hyperparams(settings, finite, step=trainer.global_step)


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
    """What TensorBoard can hold: lists and the like become text."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def log_evaluation(run: Path, name: str, row: Mapping[str, Any], record: Mapping[str, Any], grid: Path) -> None:
    """Writes a condition's metrics to RUN/evaluation/NAME, in the place of older ones: scalars, its grid, HPARAMS.

    Args:
        run: the run folder.
        name: of the sample folder.
        row: what `eval.measure.measure` returned.
        record: a manifest line of the samples, which says how they were made.
        grid: their grid.png.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    folder = run / EVALUATION / name
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    metrics = {f"{EVALUATION}/{key}": value for key, value in scalars(row).items()}
    settings = {"condition": row["condition"], "n": row["n"]}
    for key in ("seed", "guidance", "sampler", "steps", "config_hash"):
        settings |= {k: plain(v) for k, v in flat(record.get(key), key).items() if v not in (None, {})}
    with SummaryWriter(str(folder)) as writer:
        for key, value in metrics.items():
            writer.add_scalar(key, value)
        if grid.is_file():
            with Image.open(grid) as image:
                writer.add_image(f"{EVALUATION}/samples", np.asarray(image.convert("RGB")), dataformats="HWC")
        for summary in hparams(settings, metrics):
            writer._get_file_writer().add_summary(summary)


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of a row of the main table, by name."""
    found: dict[str, float] = {}

    def add(name: str, content: Any) -> None:
        if not isinstance(content, dict):
            return
        if isinstance(content.get("value"), int | float):
            found[name] = float(content["value"])
            return
        for key, value in content.items():
            add(f"{name}/{key}", value)

    for name, content in row.items():
        if name != "protocol":
            add(name, content)
    return found
