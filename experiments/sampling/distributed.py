"""Drawing on several devices: a predict run of Lightning's, each rank with its own share of the batches."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.console.quiet import quiet
from experiments.console.signals import PREEMPTION, exit_code
from experiments.sampling.jobs import BatchWriter, Drawing
from modules.errors import InputError


def is_first_process() -> bool:
    """Whether this is the first of the processes that draw together; the others were started by it, or by SLURM."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


class Predictor(LightningModule):
    """Draws pictures as a LightningModule. A batch is a list of picture numbers.

    Args:
        drawing: the job. If this rank's device is not that of its system, the system is read again on it.
    """

    def __init__(self, drawing: Drawing) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # With few pictures left, a rank may get none.
        self.drawing, self.system = drawing, drawing.system

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's share of the batches that are left."""
        own: Any = self.drawing.batches(self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(own, batch_size=None)

    def on_predict_start(self) -> None:
        if self.device != self.system.device:
            self.system = self.system.moved(self.device)

    def predict_step(self, batch: list[int], batch_idx: int) -> Tensor:
        return self.drawing.job.draw(self.system, batch)


class WriteShards(Callback):
    """Writes each batch as soon as it is drawn, and shows how far all ranks are.

    Args:
        drawing: what is drawn.
    """

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.writer = BatchWriter(drawing)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.writer = BatchWriter(self.drawing, trainer.global_rank, trainer.world_size)
        self.writer.__enter__()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.writer.write(batch, outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("pictures")
        self.writer.complete()
        self.writer.__exit__(None, None, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.writer.__exit__(None, None, None)


class EndOnSignal(Callback):
    """Exits at once on a scheduler's signal; in prediction Lightning only notes it. Finished pictures are on disk."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def end(number: int, frame: FrameType | None) -> None:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.Signals(number))
            raise SystemExit(exit_code(number))

        if threading.current_thread() is threading.main_thread():
            for number in PREEMPTION:
                signal.signal(number, end)  # Lightning puts back what it found, when it is done.


def predict(drawing: Drawing, device: torch.device, devices: int, strategy: str) -> None:
    """Draw the rest of a job with Lightning's Trainer; see `experiments.sampling.drawing.draw`."""
    quiet()
    wanted = [device.index] if device.index is not None and devices == 1 else devices
    with _interrupts():
        try:
            trainer = Trainer(
                accelerator=device.type,
                devices=wanted,
                strategy=strategy,
                callbacks=[WriteShards(drawing), EndOnSignal()],
                use_distributed_sampler=False,
                inference_mode=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (MisconfigurationException, ValueError) as error:
            line = " ".join(str(error).split())
            raise InputError(f"--devices {devices} --strategy {strategy}: {line}") from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*across ranks is zero.*")
            trainer.predict(Predictor(drawing), return_predictions=False)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Lightning turns Ctrl-C into exit code 1."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
