"""What goes wrong, as callbacks that a tool adds to a run: each at the start of the batch with the number `at`."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

DAY = 86_400.0


class At(Callback):
    """Does something once."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at:
            self.go_wrong(trainer, batch)

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        """What happens."""
        raise NotImplementedError


class Signal(At):
    """A signal to the process itself."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__(at)
        self.number = number

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        os.kill(os.getpid(), self.number)


class SignalToRank(Signal):
    """The same, to one of several ranks."""

    def __init__(self, at: int, number: int, rank: int) -> None:
        super().__init__(at, number)
        self.rank = rank

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        if trainer.global_rank == self.rank:
            super().go_wrong(trainer, batch)


class NotANumber(At):
    """One entry of one embedding of the batch is NaN."""

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        batch.z_i[2, 0] = float("nan")


class Spike(At):
    """The gradient of one step is ten thousand times what it is."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.at:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad *= 1e4

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        """Later, when there is a gradient."""


class DeadWorker(At):
    """SIGKILL to one of the data loader's processes, as when memory runs out."""

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)


class ClockJump(At):
    """The wall clock is a day ahead from here, and ten steps later a day behind."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        jump = {self.at: DAY, self.at + 10: -DAY}.get(batch_idx)
        if jump is not None:
            real = time.clock_gettime
            time.time = lambda: real(time.CLOCK_REALTIME) + jump  # type: ignore[method-assign, assignment]


class ReadOnly(At):
    """Nothing may be written into the checkpoints' folder any more."""

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        (Path(trainer.default_root_dir) / "checkpoints").chmod(0o555)


class FileLimit(At):
    """No file can grow beyond a megabyte, where a small disk cannot be had."""

    def go_wrong(self, trainer: Trainer, batch: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
