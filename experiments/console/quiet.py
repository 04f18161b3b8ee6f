"""Switches off the messages of Lightning that do not concern a person's run."""

from __future__ import annotations

import logging
import os
import threading
import warnings

QUIET_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    # It warns that the checkpoint written for a SLURM requeue holds more than the weights.
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


SRUN_HINT = ".*The `srun` command is available on your system but is not used.*"


NOISE = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*GPU available but not used.*",
    ".*Trying to infer the `batch_size`.*",
    r"\s*Unable to serialize instance",  # jsonargparse's, of a callback's default that is an object
)


def _of_thread(arguments: threading.ExceptHookArgs) -> None:
    """Leave what TensorBoard's writing thread has met to the main thread, which raises it again: it is told once."""
    if not type(arguments.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(arguments)


def quiet() -> None:
    """Silence Lightning's tips, and its warnings that are not about this run."""
    threading.excepthook = _of_thread
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A stage of the runner is a single task, whose ranks Lightning starts: it needs no srun of its own.
    for message in (*NOISE, *([SRUN_HINT] if "UNCLIP_RUN" in os.environ else [])):
        warnings.filterwarnings("ignore", message=message)
