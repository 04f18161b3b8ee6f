"""`unclip codes`: what the codes of a run's dVAE look like, and pictures as mosaics of them (DALL-E 1, figure 1)."""

from __future__ import annotations

import argparse

import torch
from PIL import Image
from torch import Tensor

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from experiments.manipulations.common import finish, pictures, sources, start
from modules.conditions import CONDITIONS
from modules.images.tensors import resized
from modules.manipulations.codebook import mosaic, patches
from modules.models.dalle1.dvae import code_use

COLUMNS, CELL = 16, 40


def run(options: argparse.Namespace) -> int:
    """Run `unclip codes`; returns the exit code."""
    system = start(options, CONDITIONS["dalle"].decoder)
    dvae, found = system.dvae(), sources(options)
    images, size = resized(found.images.to(system.device), dvae.image_size), options.batch_size
    tokens = torch.cat([dvae.encode(part) for part in images.split(size)])
    again = torch.cat([dvae.decode(part) for part in tokens.split(size)])
    codes, counts = tokens.unique(return_counts=True)
    drawn = patches(dvae, codes, size)
    columns = [pictures(part.cpu()) for part in (images, mosaic(tokens, codes, drawn), again)]
    heads = ["picture", "each code alone", "decoded together"]
    page = panel([list(row) for row in zip(*columns, strict=True)], heads, found.names)
    use = code_use(tokens, dvae.network.num_codes)
    notes = [
        f"{len(found)} pictures of {dvae.grid} x {dvae.grid} tokens use {len(codes)} of {dvae.network.num_codes} "
        f"codes, with a perplexity of {float(use.perplexity):.1f}. "
        f"The {min(len(codes), options.shown)} that occur most stand below, by their share of all tokens."
    ]
    numbers = {"codes used": len(codes), "perplexity": float(use.perplexity)}
    record = FigureRecord("Codes of the dVAE", notes, numbers=numbers)
    order = counts.argsort(descending=True, stable=True)[: options.shown]
    shown = {"figure.png": page, "codebook.png": codebook(drawn[order].cpu(), counts[order] / tokens.numel())}
    return finish(options, "codes", record, shown)


def codebook(drawn: Tensor, shares: Tensor) -> Image.Image:
    """Patches (n, 3, f, f) in rows, each row under the shares of its codes in percent."""
    cells: list[Image.Image | None] = [*pictures(drawn)]
    names = [f"{100 * share:.2g}%" for share in shares.tolist()]
    rows = [slice(first, first + COLUMNS) for first in range(0, len(cells), COLUMNS)]
    pages = [panel([cells[row]], names[row], cell=CELL) for row in rows]
    page = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
    top = 0
    for part in pages:
        page.paste(part, (0, top))
        top += part.height
    return page
