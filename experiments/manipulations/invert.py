"""`unclip invert`: pictures to their two-part latents (z_i, x_T), in one file (unCLIP, section 3)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from eval.figures.folder import FigureRecord, require_writable_figure
from eval.figures.panels import panel
from eval.tables.main import Cell, Table
from eval.words import counted
from experiments.console.devices import find_device
from experiments.manipulations.common import (
    Sources,
    enlarged,
    finish,
    noise_pictures,
    numbered,
    pictures,
    psnr,
    sources,
    walk_of,
)
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations import Latents, decoder_size, invert, reachable_sizes, redraw, save_latents
from modules.pipeline import UnCLIP
from modules.placement.settings import Placement
from modules.shipped import run_folder
from modules.shipped.newest import chosen_run


def run(options: argparse.Namespace) -> int:
    """Run `unclip invert`; returns the exit code."""
    out = Path(options.out)
    if out.is_dir() or (out.exists() and not options.overwrite):
        raise InputError(f"{out} is there already; name another file or pass --overwrite")
    if options.figure:
        require_writable_figure(options.figure, options.overwrite)
    options.run = str(run_folder(chosen_run(options.run)))
    system = UnCLIP(options.run, find_device(options.device), None, Placement(options.precision))
    options.size = reachable_sizes(system, options.size)[-1]
    found = sources(options)
    walk = replace(walk_of(options), fixed_point_iterations=options.fixed_point)
    latents = invert(system, found.images, None if options.caption is None else [options.caption], walk)
    save_latents(out, latents, system)
    again = redraw(system, latents)
    errors = psnr(again, resized(found.images, decoder_size(system)))
    for name, value in zip(found.names, errors.tolist(), strict=True):
        print(f"{name}: reconstructed at {value:.1f} dB")
    print(f"{out}: latents of {counted(len(found), 'picture')}")
    return _figure(system, options, found, latents, again, errors) if options.figure else 0


def _figure(
    system: UnCLIP, options: argparse.Namespace, found: Sources, latents: Latents, again: Tensor, errors: Tensor
) -> int:
    columns = [pictures(found.images), noise_pictures(latents.x_T), enlarged(system, options, again)]
    spread, alike = latents.x_T.flatten(1).std(dim=1), neighbours(latents.x_T)
    rows = [
        [Cell(name), Cell(f"{error:.1f}"), Cell(f"{sd:.2f}"), Cell(f"{r:.2f}")]
        for name, error, sd, r in zip(found.names, errors.tolist(), spread.tolist(), alike.tolist(), strict=True)
    ]
    note = (
        "PSNR of the reconstruction in dB; standard deviation of x_T; correlation of its neighbouring pixels. Of the "
        "noise that the decoder was trained on they are 1 and 0: what they lack is what x_T knows of the picture."
    )
    heads = ["picture", "PSNR ↑", "sd of x_T", "neighbours"]
    table = Table("The noise that was found", heads, rows, [note])
    notes = [
        f"x_T is the noise from which DDIM in {options.steps} steps at guidance {options.guidance:g} arrives at the "
        "picture, with z_i as the condition: together they are the picture, as far as the decoder can draw it.",
    ]
    numbers = {"psnr": errors.tolist(), "std": spread.tolist(), "neighbours": alike.tolist()}
    page = panel([list(row) for row in zip(*columns, strict=True)], ["picture", "x_T", "reconstruction"], found.names)
    record = FigureRecord("Inversion", notes, [table], numbers=numbers)
    options.out = options.figure
    return finish(options, "invert", record, {"figure.png": page}, numbered(columns[2]))


def neighbours(x_T: Tensor) -> Tensor:
    """(B,) correlation of pixels with the next ones to the right and below; 0 for white noise."""
    centred = x_T - x_T.mean(dim=(2, 3), keepdim=True)
    right = (centred[..., 1:] * centred[..., :-1]).flatten(1).mean(dim=1)
    below = (centred[..., 1:, :] * centred[..., :-1, :]).flatten(1).mean(dim=1)
    return torch.stack([right, below]).mean(dim=0) / centred.flatten(1).square().mean(dim=1)
