"""`unclip interpolate`: blends of pictures and of captions (unCLIP, section 3.2 and figures 4 and 5)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image

from eval.figures.folder import FigureRecord
from eval.figures.panels import CELL, panel, stacked
from experiments.manipulations.common import (
    Sources,
    enlarged,
    finish,
    numbered,
    pictures,
    psnr,
    read_latents,
    start,
    walk_of,
)
from experiments.manipulations.options import SIDE
from modules.errors import InputError
from modules.manipulations import Latents, fresh_noise, from_captions, path, redraw, square
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds


def run(options: argparse.Namespace) -> int:
    """Run `unclip interpolate`; returns the exit code."""
    _check(options)
    system = start(options)
    found, latents = read_latents(system, options)
    if len(found) < 2:
        raise InputError("an interpolation needs two pictures or more: name another")
    if options.grid and len(found) != 4:
        raise InputError(f"--grid lies between four pictures, there are {len(found)}: leave it out")
    count = row_length(len(found), options.count, "pictures")
    rows, names, ends = _rows(system, options, latents, count)
    heads = _heads(len(found), count)
    pages = [panel([_originals(found, count), *rows], heads, ["pictures", *names], _cell(count))]
    notes = [
        f"z_i goes along great circles from picture to picture ({options.steps} steps, guidance {options.guidance:g}); "
        "at whole numbers it is a picture's own. With x_T along great circles of its own these are the "
        "reconstructions; with one fresh noise for the row, they are variations.",
        f"Blended noise, at whole numbers, against the reconstructions: {min(ends):.0f} dB or more (100 dB: equal).",
    ]
    if options.captions:
        own = row_length(len(options.captions), options.count, "captions")
        rows.append(_captions_row(system, options, own))
        label = " to ".join(options.captions)
        pages.append(panel([rows[-1]], _heads(len(options.captions), own), [label], _cell(own)))
        said = " and ".join(map(repr, options.captions))
        notes.append(f"The captions' row blends the {options.prior}'s z_i of {said}.")
    shown: dict[str, Image.Image | bytes] = {"figure.png": stacked(pages) if len(pages) > 1 else pages[0]}
    side = SIDE if options.grid is None else options.grid
    if side and len(found) == 4:
        cells = enlarged(system, options, redraw(system, square(latents, side)))
        shown["grid.png"] = panel([cells[k : k + side] for k in range(0, len(cells), side)], [""] * side)
        notes.append("The grid lies between the four pictures, its corners, blended along both axes.")
    record = FigureRecord("Interpolations", notes, numbers={"ends_psnr": ends})
    return finish(options, "interpolate", record, shown, numbered([image for row in rows for image in row]))


def _check(options: argparse.Namespace) -> None:
    if options.captions and len(options.captions) < 2:
        raise InputError("--captions needs two or more captions to blend")
    if (options.count is not None and options.count < 2) or options.grid in (1, -1):
        raise InputError(f"--count and --grid need 2 or more, got {options.count} and {options.grid}")


def row_length(stops: int, count: int | None, what: str) -> int:
    """Pictures along a row that stops at each of `stops`: what was asked for, or 7, or two between neighbours.

    Raises:
        InputError: a count that would pass some of them by.
    """
    gaps = stops - 1
    if count is None:
        return gaps * max(3, -(-6 // gaps)) + 1
    if (count - 1) % gaps:
        below, above = (count - 1) // gaps * gaps + 1, -(-(count - 1) // gaps) * gaps + 1
        fitting = f"{below} or {above}" if below > 1 else f"{above}"
        raise InputError(f"--count {count} does not stop at each of {stops} {what}: take {fitting}")
    return count


def _rows(
    system: UnCLIP, options: argparse.Namespace, latents: Latents, count: int
) -> tuple[list[list[Image.Image]], list[str], list[float]]:
    """The row with the pictures' own noise and the one with fresh noise; and how near the first is at its stops."""
    noise = fresh_noise(system, ImageSeeds.of([options.seed], 1))
    own, fresh = (redraw(system, path(latents, count, shared)) for shared in (None, noise))
    step = (count - 1) // (len(latents) - 1)
    ends = psnr(own[::step], redraw(system, latents)).tolist()
    rows = [enlarged(system, options, low) for low in (own, fresh)]
    return rows, ["own noise, blended", "one fresh noise"], ends


def _captions_row(system: UnCLIP, options: argparse.Namespace, count: int) -> list[Image.Image]:
    seeds = ImageSeeds.of([options.seed] * len(options.captions), len(options.captions))
    stops = from_captions(system, options.captions, seeds, options.prior)
    return enlarged(system, options, redraw(system, path(stops, count, stops.x_T[:1]), walk_of(options)))


def _originals(found: Sources, count: int) -> Sequence[Image.Image | None]:
    """The pictures above their places in the row."""
    step = (count - 1) // (len(found) - 1)
    shown = pictures(found.images)
    return [None if k % step else shown[k // step] for k in range(count)]


def _heads(stops: int, count: int) -> list[str]:
    return [f"{k * (stops - 1) / (count - 1):.2f}" for k in range(count)]


def _cell(count: int) -> int:
    """Side of a cell: smaller in long rows, so that they can be read on a page."""
    return CELL if count <= 9 else 80
