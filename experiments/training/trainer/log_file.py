"""log.txt in a stage's folder: the lines that `unclip fit` prints about the training."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lightning.pytorch import Trainer

from experiments.console.progress import FILE_VARIABLE
from modules.untrusted.writing import open_to_append

LOG = "log.txt"


def tell(trainer: Trainer, line: str) -> None:
    """Print a line, and append it to the log of the stage that is trained."""
    print(line, flush=True)
    note(trainer, line)


def note(trainer: Trainer, line: str) -> None:
    """Append a line to the log of the stage that is trained.

    Nothing is written if the stage belongs to a suite, whose runner keeps all that the stage prints in this file, or if
    the training is a trial (`fast_dev_run`), which leaves no files. If the disk is full, training goes on.

    Raises:
        InputError: a link or a device lies in the place of the log.
    """
    folder = Path(trainer.default_root_dir)
    if FILE_VARIABLE in os.environ or getattr(trainer, "fast_dev_run", False) or not folder.is_dir():
        return
    with contextlib.suppress(OSError), open_to_append(folder / LOG) as file:
        file.write(f"{line}\n".encode())
