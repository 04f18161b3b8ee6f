"""Exports of a stage along its training, for curves over steps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from modules.errors import InputError
from modules.training.stage import Stage
from modules.untrusted.writing import clear_way

FOLDER = "parts"


class ExportParts(Callback):
    """Writes the averaged model as RUN/STAGE/parts/K after the K-th of `parts` equal parts of `max_steps`.

    Without `training.keep_best`, the last part is the stage's own export as well. A stage of that name is drawn with by
    `unclip sample --decoder STAGE/parts/K`.

    Args:
        parts: how many.

    Raises:
        InputError: `parts` is below 1.
    """

    def __init__(self, parts: int = 3) -> None:
        if parts < 1:
            raise InputError(f"ExportParts: parts is {parts}: give 1 or more")
        self.parts = parts

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_steps < self.parts or not isinstance(pl_module, Stage):
            raise InputError(
                f"ExportParts: a training of {trainer.max_steps} steps has no {self.parts} parts; set trainer.max_steps"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, root = trainer.global_step, Path(trainer.default_root_dir)
        ends = {part_end(trainer.max_steps, part, self.parts): part for part in range(1, self.parts + 1)}
        if step not in ends or trainer.fast_dev_run or not (root / "config.yaml").is_file():  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, Stage)
        folder = root / FOLDER / str(ends[step])
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            clear_way(folder / "config.yaml")
            shutil.copy(root / "config.yaml", folder / "config.yaml")
        if trainer.is_global_zero or pl_module.sharded:
            pl_module.export(folder)


def part_end(max_steps: int, part: int, parts: int) -> int:
    """The optimiser step after which part `part` of `parts` (from 1) ends: 2 of 3 of 900 is 600."""
    return max_steps * part // parts
