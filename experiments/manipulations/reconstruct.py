"""`unclip reconstruct`: pictures inverted and drawn again, and how near that comes (unCLIP, section 3)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from torch import Tensor

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from eval.metrics.bootstrap import Interval, as_json
from eval.tables.main import Cell, Table
from experiments.manipulations.common import (
    cell,
    enlarged,
    finish,
    interval,
    noise_pictures,
    numbered,
    pictures,
    psnr,
    read_latents,
    start,
)
from modules.images.tensors import resized
from modules.manipulations import Latents, Walk, decoder_size, fresh_noise, invert, redraw
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

Swept = dict[int, dict[float, Interval]]
"""Steps -> guidance -> PSNR in dB."""
HEADS = ["picture", "x_T", "eta 0, own noise", "fresh noise, same z_i"]


def run(options: argparse.Namespace) -> int:
    """Run `unclip reconstruct`; returns the exit code."""
    system = start(options)
    found, latents = read_latents(system, options, pictures_too=True)
    walk = latents.walk or Walk()
    truth = resized(found.images, decoder_size(system))
    again, fresh = both(system, latents, walk, options.seed)
    errors = {"own": psnr(again, truth), "fresh": psnr(fresh, truth)}
    for name, own, other in zip(found.names, errors["own"].tolist(), errors["fresh"].tolist(), strict=True):
        print(f"{name}: {own:.1f} dB, from fresh noise {other:.1f} dB")
    swept = sweep(system, found.images, truth, walk, options)
    gain = interval(errors["own"] - errors["fresh"])
    columns = [pictures(found.images), noise_pictures(latents.x_T)]
    columns += [enlarged(system, options, again), enlarged(system, options, fresh)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    names = [f"{name} ({value:.1f} dB)" for name, value in zip(found.names, errors["own"].tolist(), strict=True)]
    notes = [
        f"An image is (z_i, x_T): its CLIP embedding, and the noise that DDIM inversion finds ({options.steps} steps, "
        f"guidance {options.guidance:g}). Drawn from both, it comes back; from z_i alone, what CLIP kept of it does.",
        f"Reconstruction is {gain.value:.1f} dB [{gain.low:.1f}, {gain.high:.1f}] nearer to the picture than fresh "
        f"noise with the same z_i (mean over {len(found)} pictures at {truth.shape[-1]} px, 95% bootstrap interval).",
    ]
    numbers: dict[str, Any] = {
        "psnr": errors["own"].tolist(),
        "psnr_fresh": errors["fresh"].tolist(),
        "gain": as_json(gain),
    }
    numbers["sweep"] = {
        f"steps {steps}": {f"guidance {scale:g}": as_json(one) for scale, one in row.items()}
        for steps, row in swept.items()
    }
    record = FigureRecord("Reconstruction", notes, [sweep_table(swept, len(found))], numbers=numbers)
    return finish(options, "reconstruct", record, {"figure.png": panel(rows, HEADS, names)}, numbered(columns[2]))


def both(system: UnCLIP, latents: Latents, walk: Walk, seed: int) -> tuple[Tensor, Tensor]:
    """The reconstruction, and what fresh noise makes of the same z_i."""
    fresh = replace(latents, x_T=fresh_noise(system, ImageSeeds.of(seed, len(latents))))
    return redraw(system, latents, walk), redraw(system, fresh, walk)


def sweep(system: UnCLIP, images: Tensor, truth: Tensor, walk: Walk, options: argparse.Namespace) -> Swept:
    """PSNR of the reconstruction by steps and guidance."""
    found: Swept = {steps: {} for steps in options.sweep_steps}
    for steps, row in found.items():
        for scale in options.sweep_guidance:
            here = replace(walk, steps=steps, guidance_scale=scale)
            row[scale] = interval(psnr(redraw(system, invert(system, images, None, here), here), truth))
    return found


def sweep_table(swept: Swept, count: int) -> Table:
    """The table of `sweep` over `count` pictures."""
    rows = [[Cell(str(steps)), *(cell(one, 1) for one in row.values())] for steps, row in swept.items()]
    columns = ["steps", *(f"guidance {scale:g}" for scale in next(iter(swept.values()), {}))]
    note = f"n = {count}; in brackets: 95% bootstrap interval over pictures. The same guidance down as up."
    return Table("PSNR of the reconstruction in dB", columns, rows, [note])
