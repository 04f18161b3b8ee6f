"""Why training has ended, said in a line where it is not the last step of the config."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from experiments.training.callbacks import label, last_step
from experiments.training.trainer.log_file import tell
from modules.training.stage import Stage


def ended_by(trainer: Trainer) -> str:
    """The reason why training ended: "max_steps", "max_epochs", "max_time", or the name of a callback."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return "max_steps"
    passed = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    if trainer.max_epochs is not None and 0 < trainer.max_epochs <= passed:
        return "max_epochs"
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]  # None for a Timer that only takes the time
    if any(seconds is not None and seconds <= 0 for seconds in left):
        return "max_time"
    stoppers = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]
    return type(stoppers[0]).__name__ if stoppers else "a callback"


class Ending(Callback):
    """Says which setting has ended training before its last step; a run that EarlyStopping has ended stays so."""

    def __init__(self) -> None:
        self.ended_by = ""

    def state_dict(self) -> dict[str, Any]:
        return {"ended_by": self.ended_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ended_by = state_dict["ended_by"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before, self.ended_by = self.ended_by, ""
        names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
        if before and before in names:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended_by = ended_by(trainer)
        if self.ended_by == "max_steps" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        last = last_step(trainer)
        if last is None or trainer.global_step < last:
            of = "" if last is None else f" of {last:,}"
            best = pl_module.best if isinstance(pl_module, Stage) else None
            which = "this step"
            if best is not None and best.value is not None:
                which = f"step {best.step:,}, the best validation"
            tell(
                trainer,
                f"{label(trainer)}: {self.ended_by} has ended training after step {trainer.global_step:,}{of}; the "
                f"export is of {which}",
            )
