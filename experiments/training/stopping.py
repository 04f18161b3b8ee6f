"""Training that is asked to stop: after the current step, with a checkpoint, and a code that says what to do next."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment

from experiments.console.signals import PREEMPTION, exit_code
from experiments.training.checkpoints import Checkpoints

SAME_SECONDS = 5.0


class Stopped(SystemExit):
    """Training was asked to stop, and leaves with 130 for Ctrl-C and 75, to be requeued, for a scheduler's signals."""


class StopSignals(Callback):
    """The first SIGINT, SIGTERM or SIGUSR1 ends training after the current step, with a checkpoint; another, at once.

    In validation it does so after the current batch, and the last checkpoint is the one there is.

    Python may be anywhere when a signal arrives, in the middle of an optimiser step too: a checkpoint of that moment
    would not resume to the same numbers. That is why Lightning's own handler of SIGUSR1 on SLURM, which saves and asks
    SLURM to requeue the job, is called then too, and not when the signal comes. On other schedulers
    the exit code, 75, is what asks for a requeue.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            wanted = (signal.SIGINT, *PREEMPTION)
            self._before = {number: signal.signal(number, self._receive) for number in wanted}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between the batches of one step there is nothing that a checkpoint could hold; after the last one, the end is
        # near, and a stage may have to add to its state first.
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        asked = self._asked(trainer, (self._signal or 0) if stepped and trainer.global_step != trainer.max_steps else 0)
        if asked:
            self._stop(trainer, asked)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # The weights have not moved since the last step, and its checkpoint is recent: nothing to write.
        asked = self._asked(trainer, self._signal or 0)
        if asked:
            if trainer.is_global_zero:
                say("stopped in validation; `--ckpt_path last` goes on from the last checkpoint")
            self._leave(trainer, asked)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: a stage may add to its state when training has ended, and is not killed while it does. Lightning
        # has taken back its own handlers by now, and ours with them: those stay as they are.
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number != self._signal and time.monotonic() - self._since < SAME_SECONDS:
                return  # The scheduler's, and the one that the runner passes on: a single wish.
            raise Stopped(exit_code(number)) if number in PREEMPTION else KeyboardInterrupt
        self._signal, self._since = number, time.monotonic()
        say("stopping after this step; once more stops at once")

    def _stop(self, trainer: Trainer, number: int) -> None:
        checkpoints = trainer.checkpoint_callback
        if isinstance(checkpoints, Checkpoints):
            checkpoints.save(trainer)
            if trainer.is_global_zero:
                say(f"stopped after step {trainer.global_step:,}; `--ckpt_path last` goes on from here")
        self._leave(trainer, number)

    @staticmethod
    def _asked(trainer: Trainer, number: int) -> int:
        """The signal that any rank has, 0 for none; all ranks must call this, and have equally many batches."""
        if trainer.world_size == 1:
            return number
        found = trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max")
        return int(found)

    def _leave(self, trainer: Trainer, number: int) -> None:
        lightnings = self._before.get(signal.SIGUSR1)
        if number == signal.SIGUSR1 and SLURMEnvironment.detect() and callable(lightnings):
            lightnings(number, None)
        # A launcher may end all ranks as soon as one has left with a code: none leaves early.
        trainer.strategy.barrier("stopped")
        raise Stopped(exit_code(number) if trainer.is_global_zero or started_from_outside(trainer) else 0)


def started_from_outside(trainer: Trainer) -> bool:
    """Whether torchrun, srun or the like have started the ranks, and so look at the exit code of each.

    Of ranks that Lightning has started itself, only the first one's is seen; another's would have it killed.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return bool(getattr(environment, "creates_processes_externally", False))


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
