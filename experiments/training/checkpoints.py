"""Checkpoints: when and how they are written, and the random state that makes a resumed run the same run."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from experiments.storage.folders import write_atomically
from experiments.training.checkpoint_files import check_readable, keeping
from modules.errors import InputError

LAST = Path("checkpoints") / "last.ckpt"


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside, syncs and renames; reads tensors and plain values only, never code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`; after any failure `path` is as it was.

        Raises:
            OSError: it could not be written (ENOSPC for a full disk).
        """

        def write(file: IO[bytes]) -> None:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch hides the OSError of a failed write in a RuntimeError of its own.
                raise write_error(error, Path(path)) from error

        write_atomically(Path(path), write)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint. `weights_only` is always True, whatever is asked: a checkpoint cannot run code.

        Raises:
            InputError: there is no such file, or it is damaged or holds more than tensors and plain values.
        """
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a checkpoint if it is there."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`.

    Raises:
        InputError: there is no such file, or it is damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {str(path)!r} does not exist; give another path, or train without --ckpt_path")
    check_readable(path)
    content = torch.load(path, map_location=map_location, weights_only=True)
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {str(path)!r} holds no training state; use another, or train anew")
    return content


def write_error(error: RuntimeError, path: Path) -> Exception:
    """The OSError behind torch's "failed writing file", as far as it can be told, else `error` itself."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return OSError(cause.errno, cause.strerror, str(path))
    if "writ" in str(error) and shutil.disk_usage(path.parent).free < 1 << 24:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return error


class Checkpoints(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run folder: now and then, when training ends, and when asked to stop.

    Args:
        every_n_train_steps: also after every so many optimiser steps; 0 leaves it to the clock.
        every_minutes: minutes of training that may at most be lost.
        keep: checkpoints that stay: the last, and for the case that it is damaged, those before it (last-1.ckpt, ...).
    """

    def __init__(self, every_n_train_steps: int = 0, every_minutes: float = 1.0, keep: int = 2) -> None:
        if every_n_train_steps < 0 or every_minutes <= 0 or keep < 1:
            raise InputError(
                "checkpoint.every_n_train_steps must be 0 or more, checkpoint.every_minutes above 0 and "
                f"checkpoint.keep 1 or more, not {every_n_train_steps}, {every_minutes} and {keep}"
            )
        self.every_n_train_steps, self.every_minutes, self.keep = every_n_train_steps, every_minutes, keep
        self._saved_step = self._seen_step = 0
        self._saved_time = time.monotonic()
        self._trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        self._saved_step = self._seen_step = trainer.global_step
        self._saved_time = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between two optimiser steps there are accumulated gradients that no checkpoint holds.
        stepped, self._seen_step = trainer.global_step != self._seen_step, trainer.global_step
        if stepped and self._due(trainer):
            self.save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in `on_train_end`, in which a stage may add to its state after the callbacks.
        if self._trained:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write `checkpoints/last.ckpt`, but not in a `fast_dev_run`; every rank must call this."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.path(trainer)
        with keeping(path, self.keep) if trainer.is_global_zero else contextlib.nullcontext():
            trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            for requeued in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                requeued.unlink(missing_ok=True)  # Lightning's, of an earlier requeue on SLURM, and older than this one
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()

    @staticmethod
    def path(trainer: Trainer) -> Path:
        """Where the last checkpoint is."""
        return Path(trainer.default_root_dir) / LAST

    def _due(self, trainer: Trainer) -> bool:
        if trainer.global_step == trainer.max_steps:
            return False  # A stage may add to its state in `on_train_end`; one without that would not be the end's.
        if self.every_n_train_steps and trainer.global_step % self.every_n_train_steps == 0:
            return True
        due = time.monotonic() - self._saved_time >= 60 * self.every_minutes
        # Ranks' clocks differ, and saving is collective.
        return bool(trainer.strategy.broadcast(due)) if trainer.world_size > 1 else due


class RandomState(Callback):
    """Puts the global random state into checkpoints, so that a resumed run draws what an uninterrupted one would have.

    Validation gets its own: it leaves training's random state as it found it, however often it runs.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._training: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        own = random_state()
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [own]}
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not earlier: starting the data loader draws from the global state.
        if self._restored is not None and len(self._restored["ranks"]) == trainer.world_size:
            set_random_state(self._restored["ranks"][trainer.global_rank])
        self._restored = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Validation may follow, and its loader draws before any hook of its own is called. Takes some microseconds.
        self._training = random_state()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._training is not None:
            set_random_state(self._training)


def random_state() -> dict[str, Any]:
    """The global random state of Python, numpy and torch (with its accelerators), as tensors and plain values."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (whoever draws from it, it has to be the same)
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned. Accelerators' states only where their number is the same."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])
