"""`unclip inpaint`: a part of a picture drawn anew, so that it fits the rest and a caption."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from eval.metrics.bootstrap import as_json
from eval.tables.main import Cell, Table
from experiments.manipulations.common import (
    cell,
    finish,
    hatched,
    interval,
    numbered,
    pictures,
    sources,
    start,
    walk_of,
    whole_caption,
)
from modules.errors import InputError
from modules.images.tensors import resized, sides_of
from modules.manipulations import Hole, inpaint, tokens_of
from modules.manipulations.methods import open_part
from modules.seeds import ImageSeeds

Seam = dict[str, dict[str, float] | None]
"""Where neighbouring pixels lie ("border", "known", "drawn") -> mean and interval of their difference."""
PARTS = {
    "left": (slice(None), slice(0, 1)),
    "right": (slice(None), slice(1, 2)),
    "top": (slice(0, 1), slice(None)),
    "bottom": (slice(1, 2), slice(None)),
}


def run(options: argparse.Namespace) -> int:
    """Run `unclip inpaint`; returns the exit code."""
    if options.fills < 1 or options.resamples < 1:
        raise InputError(f"--fills and --resamples are 1 or more, got {options.fills} and {options.resamples}")
    system = start(options)
    found = sources(options)
    side = found.images.shape[-1]
    keep = 1 - mask_of(options.mask, side, options.images)
    texts = [str(options.caption or whole_caption(record)) for record in found.records]
    count = options.fills
    seeds = ImageSeeds.of([options.seed + k for k in range(count)] * len(found), len(found) * count)
    if all(texts):
        captions = [text for text in texts for _ in range(count)]
        tokens, z_t = system.embed_text(captions)
        z_i = system.embedding(options.prior, tokens, z_t, seeds.generators("prior"))
    else:  # Without a caption the picture's own z_i says what it is.
        z_i = system.embed_image(found.images).repeat_interleave(count, dim=0)
        tokens = tokens_of(system, None, len(found) * count)
    hole = Hole(found.images.repeat_interleave(count, dim=0), keep.expand(len(found) * count, -1, -1, -1))
    drawn = inpaint(system, hole, z_i, tokens, seeds, walk_of(options), size=options.size, resamples=options.resamples)
    known = hole.at(drawn.shape[-1])
    error = float(((drawn.cpu() - known.images).abs() * known.keep).max())
    shown = resized(found.images, drawn.shape[-1])
    holes = torch.where(known.keep[::count].cpu() > 0, shown, hatched(shown.shape[-1]))
    table, steps = seams(drawn.cpu(), shown.repeat_interleave(count, dim=0), known.keep.cpu(), count)
    cells = pictures(drawn)
    rows = [
        [original, hollow, *cells[k * count : (k + 1) * count]]
        for k, (original, hollow) in enumerate(zip(pictures(shown), pictures(holes), strict=True))
    ]
    notes = [
        f"What is hatched is drawn anew, {options.steps} steps, each taken {options.resamples} times with the known "
        f"pixels noised afresh (RePaint), then in the same way by the upsamplers; guidance {options.guidance:g}.",
        f"Known pixels differ from the picture's by {error:.2g} at most (of a range of 2).",
    ]
    names = [text or name for text, name in zip(texts, found.names, strict=True)]
    page = panel(rows, ["picture", "hole", *(f"seed {options.seed + k}" for k in range(count))], names)
    record = FigureRecord("Inpainting", notes, [table], numbers={"largest_error_of_known_pixels": error, **steps})
    return finish(options, "inpaint", record, {"figure.png": page}, numbered(cells))


def seams(drawn: Tensor, truth: Tensor, keep: Tensor, fills: int = 1) -> tuple[Table, dict[str, Seam]]:
    """How much neighbouring pixels differ across the hole's border, beside elsewhere and beside the true picture.

    Args:
        drawn, truth: (B, 3, S, S) in [-1, 1].
        keep: (B, 1, S, S), 1 where a pixel is known.
        fills: fillings of each picture; they follow one another.

    Returns:
        The table, and its numbers for figure.json: "step" in the inpainted picture, "true_step" in the true one.
    """
    places = {"border": lambda a, b: a != b, "known": lambda a, b: (a + b) == 2, "drawn": lambda a, b: (a + b) == 0}
    found = {
        name: [interval(_steps(images, keep, inside).reshape(-1, fills).nanmean(dim=1)) for images in (drawn, truth)]
        for name, inside in places.items()
    }
    labels = {"border": "across the border", "known": "among known pixels", "drawn": "among drawn pixels"}
    rows = [[Cell(labels[name]), cell(made, 4), cell(true, 4)] for name, (made, true) in found.items()]
    note = (
        f"Mean absolute difference of neighbouring pixels, as a share of the range from black to white; n = "
        f"{len(drawn) // fills} pictures of {fills} fills each. In brackets: 95% bootstrap interval over pictures. A "
        "seam shows as a border that is rougher than the true picture's."
    )
    table = Table("The seam", ["neighbouring pixels", "inpainted", "true picture"], rows, [note])
    made, true = ({name: as_json(pair[k]) for name, pair in found.items()} for k in range(2))
    return table, {"step": made, "true_step": true}


def _steps(images: Tensor, keep: Tensor, inside: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(B,) mean difference of neighbours, to the right and below, whose two values of `keep` are as wanted."""
    total, count = torch.zeros(len(images)), torch.zeros(len(images))
    for a, b in (
        ((..., slice(1, None)), (..., slice(None, -1))),
        ((..., slice(1, None), slice(None)), (..., slice(None, -1), slice(None))),
    ):
        wanted = inside(keep[a], keep[b]).float()
        total += ((images[a] - images[b]).abs().mean(dim=1, keepdim=True) / 2 * wanted).flatten(1).sum(dim=1)
        count += wanted.flatten(1).sum(dim=1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def mask_of(name: str, side: int, files: Sequence[str] = ()) -> Tensor:
    """(1, 1, side, side), 1 where to draw: a half, the centre, or a picture as large as the pictures of the files."""
    mask = torch.zeros(1, 1, side, side)
    if name == "centre":
        mask[..., side // 4 : side - side // 4, side // 4 : side - side // 4] = 1
        return mask
    if name not in PARTS:
        return open_part(name, side, [sides_of(file) for file in files])
    rows, columns = (
        slice((s.start or 0) * (side // 2), None if s.stop in (None, 2) else side // 2) for s in PARTS[name]
    )
    mask[..., rows, columns] = 1
    return mask
