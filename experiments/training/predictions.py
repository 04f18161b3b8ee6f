"""The files of `unclip predict`: RUN/STAGE/predictions/batch-NNNNN.pt, a mapping of tensors for each batch.

`torch.load(path, weights_only=True)` reads them. With several devices the names end in -rank-N; `index` says which
samples a file's rows are of.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from eval.files import move_into_place, write_file, writing
from eval.words import counted
from modules.errors import InputError

FOLDER = "predictions"


def check_place(run: Path, overwrite: bool) -> None:
    """Refuse to write over predictions that are there.

    Raises:
        InputError: they are there, and `overwrite` is off.
    """
    if (run / FOLDER).exists() and not overwrite:
        raise InputError(f"{run / FOLDER} is there already: move it away, or say --overwrite")


class WritePredictions(BasePredictionWriter):
    """Writes each batch's predictions beside `folder`/predictions, which they become when all are there.

    Args:
        run: the stage's run folder.
    """

    def __init__(self, run: Path) -> None:
        super().__init__("batch")
        self.folder = run / FOLDER
        self.partial = run / f".{FOLDER}.partial"
        self.count = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            with writing(self.folder):
                shutil.rmtree(self.partial, ignore_errors=True)
                self.partial.mkdir(parents=True)
        trainer.strategy.barrier("the folder of predictions is made")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        content = io.BytesIO()  # torch hides what a disk says.
        torch.save({name: tensor.detach().cpu() for name, tensor in prediction.items()}, content)
        rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
        write_file(self.partial / f"batch-{batch_idx:05d}{rank}.pt", content.getvalue())
        self.count += len(next(iter(prediction.values())))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("predictions are written")
        if trainer.is_global_zero:
            with writing(self.folder):
                move_into_place(self.partial, self.folder)
            share = f" on each of {trainer.world_size} devices" if trainer.world_size > 1 else ""
            print(f"{self.folder}: predictions for {counted(self.count, 'sample')}{share}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            shutil.rmtree(self.partial, ignore_errors=True)
