"""The Frechet distance against the radius of a Gaussian blur on both sides (DALL-E 1, section 3.1, figure 9a and b).

A generator that models a picture's large structure and not its high frequencies is behind at radius 0 and ahead from
some radius on: that is why the paper blurs samples and real images before they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.errors import InputError
from eval.judges.features import Extractor, batches
from eval.metrics.bootstrap import LEVEL, Resampler, as_json
from eval.metrics.frechet import FeatureStatistics
from eval.metrics.frechet_interval import frechet_interval
from eval.records import check_record
from eval.runs import read_json
from eval.samples.folder import SampleFolder
from eval.tables.main import Cell, Table, label, number

BLUR = "blur.json"
KEYS = ("radii", "rows", "note")


def blurred(images: Tensor, radius: float) -> Tensor:
    """uint8 (N, 3, H, W) through a Gaussian of standard deviation `radius` pixels, rounded to uint8 again.

    Borders are mirrored. Radius 0 is the images themselves.
    """
    from scipy.ndimage import gaussian_filter  # Reports import this file, and seldom blur.

    if radius == 0:
        return images
    found = gaussian_filter(images.numpy().astype(np.float32), (0, 0, radius, radius), mode="reflect")
    return torch.from_numpy(np.rint(found).clip(0, 255).astype(np.uint8))


def features(folder: SampleFolder, judge: Extractor, radius: float, batch_size: int = 128) -> np.ndarray:
    """(N, D) features of a folder's blurred images."""
    return np.concatenate([judge(blurred(images, radius)).numpy() for images in batches(folder, batch_size)])


def blur_curve(
    folders: Sequence[SampleFolder], reference: SampleFolder, judge: Extractor, radii: Sequence[float], draws: int
) -> dict[str, Any]:
    """The distance of each folder from the reference at each radius, JSON-ready; what `RUN/blur.json` holds."""
    rows: list[dict[str, Any]] = [{"condition": folder.condition, "frechet": []} for folder in folders]
    for radius in radii:
        real = FeatureStatistics.of(features(reference, judge, radius))
        for folder, row in zip(folders, rows, strict=True):
            found = frechet_interval(features(folder, judge, radius), real, Resampler(folder.caption_index, draws, 0))
            row["frechet"].append(as_json(found))
    note = (
        f"n = {len(folders[0])}; {judge.name} against {len(reference)} real images ({reference.path.resolve().name}) "
        f"of {reference.size[0]} px, samples and real images blurred alike; "
        f"{LEVEL:.0%} intervals over captions, {draws} draws."
    )
    return {"radii": list(radii), "rows": rows, "note": note}


def read_blur(run: Path) -> dict[str, Any] | None:
    """Read the blur.json that `unclip blur` wrote into a run; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    found = read_json(run / BLUR)
    if found is not None and any(key not in found for key in KEYS):
        raise InputError(f"{run / BLUR} lacks {', '.join(k for k in KEYS if k not in found)}: run `unclip blur` again")
    check_record(run / BLUR, found)
    return found


def blur_table(found: dict[str, Any]) -> Table:
    """A row for each condition, a column for each radius."""
    body = [[Cell(label(row["condition"])), *(number(cell, 2) for cell in row["frechet"])] for row in found["rows"]]
    heads = ["Frechet distance ↓", *(f"radius {radius:g}" for radius in found["radii"])]
    return Table("Frechet distance under a Gaussian blur", heads, body, [found["note"]])
