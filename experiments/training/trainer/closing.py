"""The last lines of `unclip fit`: what was trained, where its export lies, what can be done next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from experiments.console.progress import clock
from experiments.training.callbacks import label, losses
from modules.models.exports import is_export
from modules.shipped.newest import NEEDED


def closing(trainer: Trainer, module: LightningModule, folder: Path, seconds: float) -> str:
    """Two lines: the training, and the next command; of a suite's stage, whose next command is known, only the first.

    Args:
        folder: the stage's, whose parent is the run folder.
        seconds: that training took.
    """
    said = losses(trainer)
    line = f"{label(trainer)}: {trainer.global_step:,} steps done, {clock(seconds)} of this start"
    line += f" ({said})" if said else ""
    export = folder / "export"
    if not export.is_dir():
        return f"{line}; in {folder}"
    line = f"{line}; export: {export}"
    return line if "UNCLIP_RUN" in os.environ else f"{line}\nnext: {next_command(module, folder)}"


def next_command(module: LightningModule, folder: Path) -> str:
    """The command that comes after the training of a stage."""
    run = shlex.quote(str(folder.parent))
    if is_clip(module):
        return f"unclip embed DATA --clip {shlex.quote(str(folder / 'export'))} --out {run}/embeddings"
    missing = [stage for stage in NEEDED if not is_export(folder.parent / stage)]
    draw = f'unclip sample "CAPTION" --run {run} --out pictures'
    return f"train {', '.join(missing)} into {run}/; then {draw}" if missing else draw


def is_clip(module: LightningModule) -> bool:
    """Whether it is a CLIP, whose trainer brings open_clip: a second and more, which other stages start without."""
    if "modules.clip.trainer" not in sys.modules:
        return False
    from modules.clip import CLIPTrainer

    return isinstance(module, CLIPTrainer)
