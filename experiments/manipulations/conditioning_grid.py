"""`unclip conditioning-grid`: caption only, z_t as if it were z_i, a prior's z_i, on the same noise (figure 8)."""

from __future__ import annotations

import argparse

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from experiments.manipulations.common import captions_of, enlarged, finish, numbered, start, use_sampler
from modules.conditions import CONDITIONS, sampled
from modules.errors import InputError
from modules.seeds import ImageSeeds

LABELS = {"caption_only": "caption only", "text_embedding": "caption, z_t as z_i", "glide": "GLIDE"}


def run(options: argparse.Namespace) -> int:
    """Run `unclip conditioning-grid`; returns the exit code."""
    offered = [name for name in sampled() if CONDITIONS[name].has_embedding or CONDITIONS[name].z_i == "none"]
    for condition in options.conditions:
        if condition not in offered:
            raise InputError(f"no condition {condition!r} here; there are {', '.join(offered)}")
    system = start(options)
    use_sampler(system, options.steps, options.guidance)
    rows, names, drawn = [], [], []
    seeds = ImageSeeds.of([options.seed + k for k in range(options.columns)], options.columns)
    for caption in captions_of(options):
        tokens, z_t = system.embed_text([caption] * options.columns)
        for condition in options.conditions:
            z_i = system.embedding(condition, tokens, z_t, seeds.generators("prior"))
            decoder = CONDITIONS[condition].decoder
            cells = enlarged(system, options, system.decode(tokens, z_i, seeds.generators("decoder"), decoder))
            rows.append(cells)
            drawn += cells
            names.append(f"{caption}: {LABELS.get(condition, condition.replace('_', ' '))}")
    notes = [
        "One decoder under three conditions; a column has the same noise. With the caption only, z_i is zero; z_t as "
        "if it were z_i works as far as CLIP's two towers agree; a prior's z_i is what the decoder was trained on.",
        f"Decoder: {system.decoder().sampler.steps} steps, guidance {system.decoder().sampler.guidance_scale:g}.",
    ]
    page = panel(rows, [f"seed {options.seed + k}" for k in range(options.columns)], names)
    record = FigureRecord("What the decoder is conditioned on", notes)
    return finish(options, "conditioning-grid", record, {"figure.png": page}, numbered(drawn))
