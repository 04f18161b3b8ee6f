"""`unclip text-diff`: pictures changed towards what a caption says and another does not (unCLIP, section 3.3)."""

from __future__ import annotations

import argparse

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from eval.metrics.bootstrap import as_json
from experiments.manipulations.common import (
    enlarged,
    finish,
    interval,
    numbered,
    pictures,
    read_latents,
    start,
)
from experiments.manipulations.measured.table import table_figure
from modules.clip.frozen import warn_unknown_words
from modules.errors import InputError
from modules.manipulations import EDIT_STEPS, Walk, redraw, text_diff, text_direction


def run(options: argparse.Namespace) -> int:
    """Run `unclip text-diff`; returns the exit code."""
    if (options.target is None) == (options.table is None):
        raise InputError("give a --target caption, or --table N to measure edits whose truth is known")
    if options.choose is not None and options.table is None:
        raise InputError("--choose goes with --table: it chooses theta for the edits that are measured")
    if not all(0 <= theta <= 1 for theta in options.theta):
        raise InputError("--theta goes from 0 to 1; the paper's edits go up to 0.25 - 0.5")
    system = start(options)
    if options.table is not None:
        return table_figure(system, options)
    captions = [options.target] if options.base is None else [options.target, options.base]
    warn_unknown_words(system.clip.tokenize, captions)
    z_d = text_direction(system, [options.target], None if options.base is None else [options.base])
    found, latents = read_latents(system, options, walk=Walk(EDIT_STEPS))
    low = [redraw(system, text_diff(latents, z_d.expand(len(found), -1), theta)) for theta in options.theta]
    columns = [pictures(found.images), *(enlarged(system, options, images) for images in low)]
    unit = system.clip.unit
    cosines = [interval((unit(system.embed_image(images)) @ z_d.T).flatten().cpu()) for images in low]
    heads = ["picture", *(f"theta {theta:g}" for theta in options.theta)]
    away = f"from {options.base!r} " if options.base is not None else ""
    notes = [
        f"z_i turns by theta of the angle {away}to {options.target!r}; x_T stays ({options.steps} steps, guidance "
        f"{options.guidance:g}). Mean cosine of the result's z_i to that direction: "
        + ", ".join(f"{one.value:.2f}" for one in cosines)
        + "."
    ]
    page = panel([list(row) for row in zip(*columns, strict=True)], heads, found.names)
    record = FigureRecord("Text diff", notes, numbers={"theta": options.theta, "cosine": list(map(as_json, cosines))})
    singles = numbered([image for column in columns[1:] for image in column])
    return finish(options, "text-diff", record, {"figure.png": page}, singles)
