"""Evaluated conditions in TensorBoard: hyperparameters beside metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.runs import run_of
from eval.samples.folder import SampleFolder
from experiments.storage.settings import flat
from experiments.training.boards import plain


def log_to_board(folder: SampleFolder, row: dict[str, Any]) -> None:
    """Shows a row in the TensorBoard of the run that the samples belong to, if they do."""
    run = run_of(folder.path)
    if run is not None:
        from eval.samples.folder import GRID

        log_evaluation(run, folder.path.name, row, folder.records[0], folder.path / GRID)


EVALUATION = "evaluation"


def log_evaluation(run: Path, name: str, row: Mapping[str, Any], record: Mapping[str, Any], grid: Path) -> None:
    """Writes a condition's metrics to RUN/evaluation/NAME, in the place of older ones: scalars, its grid, HPARAMS.

    Args:
        run: the run folder.
        name: of the sample folder.
        row: what `eval.measure.measure` returned.
        record: a manifest line of the samples, which says how they were made.
        grid: their grid.png.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    folder = run / EVALUATION / name
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    metrics = {f"{EVALUATION}/{key}": value for key, value in scalars(row).items()}
    settings = {"condition": row["condition"], "n": row["n"]}
    for key in ("seed", "guidance", "sampler", "steps", "config_hash"):
        settings |= {k: plain(v) for k, v in flat(record.get(key), key).items() if v not in (None, {})}
    with SummaryWriter(str(folder)) as writer:
        for key, value in metrics.items():
            writer.add_scalar(key, value)
        if grid.is_file():
            with Image.open(grid) as image:
                writer.add_image(f"{EVALUATION}/samples", np.asarray(image.convert("RGB")), dataformats="HWC")
        for summary in hparams(settings, metrics):
            writer._get_file_writer().add_summary(summary)


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
