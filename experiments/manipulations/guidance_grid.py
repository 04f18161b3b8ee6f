"""`unclip guidance-grid`: guidance scales side by side, z_i and noise fixed, unCLIP beside GLIDE (figure 9)."""

from __future__ import annotations

import argparse

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from experiments.manipulations.common import captions_of, enlarged, finish, numbered, start, use_sampler
from modules.conditions import priors
from modules.errors import InputError
from modules.seeds import ImageSeeds


def run(options: argparse.Namespace) -> int:
    """Run `unclip guidance-grid`; returns the exit code."""
    if options.prior not in priors():
        raise InputError(f"no prior {options.prior!r}; there are {', '.join(priors())}")
    if options.guidance is not None:
        raise InputError("guidance-grid compares scales: name them with --scales, not with --guidance")
    system = start(options)
    captions = captions_of(options)
    seeds = ImageSeeds.of([options.seed] * len(captions), len(captions))
    tokens, z_t = system.embed_text(captions)
    z_i = system.embedding(options.prior, tokens, z_t, seeds.generators("prior"))
    cells = {}
    models = ["decoder", *(["glide"] if system.has("glide") else [])]
    for scale in options.scales:
        use_sampler(system, options.steps, scale)
        for model in models:
            given = None if model == "glide" else z_i
            low = system.decode(tokens, given, seeds.generators("decoder"), model)
            cells[model, scale] = enlarged(system, options, low)
    rows, names = [], []
    for k, caption in enumerate(captions):
        for model in models:
            rows.append([cells[model, scale][k] for scale in options.scales])
            names.append(f"{caption}: {'GLIDE' if model == 'glide' else 'unCLIP'}")
    notes = [
        f"The {options.prior.replace('_', ' ')}'s z_i and the noise are fixed along a row; only the decoder's guidance "
        "grows. In unCLIP what is drawn is decided by z_i and stays; GLIDE has nothing but the caption and the noise.",
    ]
    page = panel(rows, [f"guidance {scale:g}" for scale in options.scales], names)
    record = FigureRecord("Guidance", notes)
    return finish(options, "guidance-grid", record, {"figure.png": page}, numbered([i for row in rows for i in row]))
