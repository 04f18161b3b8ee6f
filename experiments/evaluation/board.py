"""Evaluated conditions in TensorBoard: hyperparameters beside metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.runs import run_of
from eval.samples.folder import GRID, SampleFolder
from eval.samples.pictures import read_picture
from eval.untrusted import require_inside
from experiments.storage.settings import flat
from experiments.training.boards import Value, log_session, plain

EVALUATION = "evaluation"


@dataclass(frozen=True)
class Evaluated:
    """The settings, numbers and pictures of an evaluated condition, for loggers.

    Attributes:
        settings: how the pictures were made.
        metrics: all numbers of the row, by name.
        grid: the first pictures with their captions; None if the folder has no grid.png.
    """

    settings: dict[str, Value]
    metrics: dict[str, float]
    grid: Image.Image | None

    @classmethod
    def of(cls, row: Mapping[str, Any], record: Mapping[str, Any], grid: Path) -> Evaluated:
        """From what `eval.measure.measure` returned, a manifest line of the samples, and their grid.png."""
        settings = {"condition": row["condition"], "n": row["n"]}
        for key in ("seed", "guidance", "sampler", "steps", "config_hash"):
            settings |= {k: plain(v) for k, v in flat(record.get(key), key).items() if v not in (None, {})}
        metrics = {f"{EVALUATION}/{key}": value for key, value in scalars(row).items()}
        return cls(
            settings, metrics, read_picture(require_inside(grid.parent, grid.name), grid) if grid.is_file() else None
        )

    @classmethod
    def of_folder(cls, folder: SampleFolder, row: Mapping[str, Any]) -> Evaluated:
        """A measured sample folder."""
        return cls.of(row, folder.records[0], folder.path / GRID)


def differing(conditions: Sequence[Evaluated]) -> list[Evaluated]:
    """Conditions with those settings in which they differ, which TensorBoard's table of runs has as columns.

    With one condition alone all settings stay.
    """
    names = list(dict.fromkeys(name for each in conditions for name in each.settings))
    if len(conditions) > 1:
        values = {name: {each.settings.get(name) for each in conditions} for name in names}
        names = [name for name in names if name == "condition" or len(values[name]) > 1]
    return [replace(e, settings={n: e.settings[n] for n in names if n in e.settings}) for e in conditions]


def log_to_board(folder: SampleFolder, evaluated: Evaluated) -> None:
    """Shows a condition in the TensorBoard of the run that the samples belong to, if they do."""
    run = run_of(folder.path)
    if run is not None:
        log_evaluation(run, folder.path.name, evaluated)


def log_evaluation(run: Path, name: str, evaluated: Evaluated) -> None:
    """Writes a condition's metrics to RUN/evaluation/NAME, in the place of older ones: scalars, its grid, HPARAMS.

    Args:
        run: the run folder.
        name: of the sample folder.
        evaluated: what is shown.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = run / EVALUATION / name
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for key, value in evaluated.metrics.items():
            writer.add_scalar(key, value)
        if evaluated.grid is not None:
            writer.add_image(f"{EVALUATION}/samples", np.asarray(evaluated.grid), dataformats="HWC")
        log_session(writer, evaluated.settings)


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of a row of the main table, by name."""
    found: dict[str, float] = {}

    def add(name: str, content: Any) -> None:
        if not isinstance(content, dict):
            return
        if isinstance(content.get("value"), int | float):
            found[name] = float(content["value"])
            return
        for key, value in content.items():
            add(f"{name}/{key}", value)

    for name, content in row.items():
        if name != "protocol":
            add(name, content)
    return found
