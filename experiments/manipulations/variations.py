"""`unclip variations`: other pictures with the same z_i, the further from the first the larger eta (unCLIP, 3.1)."""

from __future__ import annotations

import argparse
from itertools import pairwise

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from eval.metrics.bootstrap import as_json
from eval.tables.main import Cell, Table
from experiments.manipulations.common import (
    cell,
    distance,
    enlarged,
    finish,
    interval,
    numbered,
    pictures,
    sources,
    start,
    walk_of,
)
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations import Latents, decoder_size, fresh_noise, invert, redraw
from modules.seeds import ImageSeeds


def run(options: argparse.Namespace) -> int:
    """Run `unclip variations`; returns the exit code."""
    if not all(0 <= eta <= 1 for eta in options.eta):
        raise InputError(f"--eta goes from 0 to 1, got {' '.join(f'{eta:g}' for eta in options.eta)}")
    system = start(options)
    found, walk = sources(options), walk_of(options)
    truth, seeds = resized(found.images, decoder_size(system)), ImageSeeds.of(options.seed, len(found))
    latents = invert(system, found.images, None, walk)
    drawn = {f"eta {eta:g}": redraw(system, latents, walk, eta=eta, seeds=seeds) for eta in sorted(options.eta)}
    fresh = Latents(latents.z_i, fresh_noise(system, seeds), latents.tokens)
    drawn["fresh noise"] = redraw(system, fresh, walk)
    rows, numbers, far = [], {}, {}
    for name, images in drawn.items():
        pixels = interval(distance(images, truth))
        unit = system.clip.unit
        cosine = interval((unit(system.embed_image(images)) * unit(latents.z_i)).sum(dim=1).cpu())
        rows.append([Cell(name), cell(pixels, 3), cell(cosine, 3)])
        far[name] = pixels.value
        numbers[name] = {"distance": as_json(pixels), "cosine": as_json(cosine)}
    grows = all(far[f"eta {a:g}"] < far[f"eta {b:g}"] for a, b in pairwise(sorted(options.eta)))
    note = f"n = {len(found)}; in brackets: 95% bootstrap interval over pictures."
    table = Table("Distance to the picture", ["noise", "RMS difference ↓", "cosine of z_i ↑"], rows, [note])
    notes = [
        f"All of a row have the z_i of the first picture, {options.steps} steps, guidance {options.guidance:g}. "
        "eta = 0 is the reconstruction; above it, noise joins each step; fresh noise forgets x_T altogether.",
        f"The mean distance to the picture {'grows' if grows else 'does NOT grow'} with eta at every step.",
        "What stays along a row is what CLIP's embedding holds of the picture; what changes it leaves open.",
    ]
    shown = min(options.shown, len(found))
    columns = [pictures(found.images[:shown])]
    columns += [enlarged(system, options, images[:shown]) for images in drawn.values()]
    page = panel([list(row) for row in zip(*columns, strict=True)], ["picture", *drawn], found.names[:shown])
    record = FigureRecord("Variations", notes, [table], numbers={**numbers, "monotonic": grows})
    singles = numbered([image for column in columns[1:] for image in column])
    return finish(options, "variations", record, {"figure.png": page}, singles)
