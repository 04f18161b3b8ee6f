"""`unclip complete`: the top rows of pictures are given, DALL-E draws the rest (DALL-E 1, section 3.3)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from experiments.manipulations.common import finish, hatched, numbered, pictures, sources, start, whole_caption
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations.completion import complete
from modules.manipulations.enlarging import enlarge
from modules.seeds import ImageSeeds


def run(options: argparse.Namespace) -> int:
    """Run `unclip complete`; returns the exit code."""
    if options.fills < 1:
        raise InputError(f"--fills is 1 or more, got {options.fills}")
    system = start(options, CONDITIONS["dalle"].decoder)
    dvae = system.dvae()
    if not 0 <= options.rows < dvae.grid:
        raise InputError(f"--rows is {options.rows}: of the {dvae.grid} rows of tokens give 0 to {dvae.grid - 1}")
    found, count = sources(options), options.fills
    texts = [str(options.caption or whole_caption(record)) for record in found.records]
    if not all(texts):
        raise InputError("these pictures have no captions: give --caption")
    seeds = ImageSeeds.of([options.seed + k for k in range(count)] * len(found), len(found) * count)
    images = found.images.repeat_interleave(count, dim=0)
    captions, size = [text for text in texts for _ in range(count)], options.batch_size
    parts = [slice(first, first + size) for first in range(0, len(images), size)]
    low = torch.cat([complete(system, images[p], captions[p], options.rows, seeds[p]) for p in parts])
    drawn = enlarge(system, low, options.size, seeds, options.batch_size)
    side = drawn.shape[-1]
    shown = resized(found.images, side)
    hollow = holes(shown, options.rows / dvae.grid)
    again = enlarge(
        system,
        dvae.decode(dvae.encode(resized(found.images, dvae.image_size))),
        options.size,
        seeds[::count],
        options.batch_size,
    )
    cells = pictures(drawn)
    rows = [
        [*row, *cells[k * count : (k + 1) * count]]
        for k, row in enumerate(zip(pictures(shown), pictures(again), pictures(hollow), strict=True))
    ]
    notes = [
        f"The first {options.rows} of {dvae.grid} rows of tokens are the picture's, the rest is drawn for the caption. "
        "A token decodes to more than its own square of pixels, so that the given part may change a little."
    ]
    heads = ["picture", "all tokens given", "given", *(f"seed {options.seed + k}" for k in range(count))]
    page = panel(rows, heads, texts)
    return finish(options, "complete", FigureRecord("Completion", notes), {"figure.png": page}, numbered(cells))


def holes(images: Tensor, share: float) -> Tensor:
    """(B, 3, S, S) with all below the first `share` of the rows hatched."""
    side = images.shape[-1]
    given = (torch.arange(side) < round(share * side))[:, None].expand(side, side)
    return torch.where(given, images, hatched(side))
