"""`unclip table3`: the paper's Table 3 from the paper-scale YAMLs, with counted parameters and FLOPs.

The hyperparameters that a run was trained with stand in the Table 3 that `unclip tables RUN` writes.

The networks are built on the meta device: shapes without numbers, so 3.5 B parameters take no memory. FLOPs are those
of matrix products, convolutions and attention, a multiplication and an addition counting as two.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, get_type_hints

from eval.tables.hyperparameters import (
    NETWORK,
    ROWS,
    SIZES,
    STAGES,
    TITLES,
    lookup,
    setting,
    size_text,
    text_of,
)
from experiments.console.shipped import located
from experiments.console.show import aligned
from experiments.costs import flops
from experiments.costs.flops import Count
from experiments.costs.stage_config import stage_config
from experiments.storage.folders import write_text
from modules.errors import InputError
from modules.models.base import Model
from modules.models.decoder import DecoderModel
from modules.models.priors.autoregressive_prior import ARPriorModel
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.upsampler import UpsamplerModel

MODELS: dict[str, type[Model]] = {
    "ar_prior": ARPriorModel,
    "diffusion_prior": DiffusionPriorModel,
    "decoder": DecoderModel,
    "upsampler_256": UpsamplerModel,
    "upsampler_1024": UpsamplerModel,
}
"""The models in the columns of Table 3."""

SHAPE = (
    "channels",
    "depth",
    "channel multipliers",
    "head channels",
    "attention resolutions",
    "text context",
    "text width",
    "text depth",
    "text heads",
    "latent decoder width",
    "latent decoder depth",
    "latent decoder heads",
)
"""Rows that a network's size follows from."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip table3`; returns the exit code."""
    folder = located(options.folder)
    configs = {stage: stage_config(folder / f"{stage}.yaml", STAGES) for stage in STAGES}
    text = table(configs, {stage: count(stage, configs[stage]) for stage in STAGES})
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def count(stage: str, config: dict[str, Any]) -> Count:
    """Parameters and FLOPs of a column.

    Raises:
        InputError: the YAML is of another model.
    """
    return flops.count(model_of(stage, config))


def model_of(stage: str, config: dict[str, Any]) -> Model:
    """A column's model, on the meta device.

    Raises:
        InputError: the YAML is of another model.
    """
    wanted = get_type_hints(MODELS[stage])["network"]
    path, _, name = str(lookup(config, "model.init_args.network.class_path")).rpartition(".")
    if not issubclass(getattr(import_module(path), name), wanted):
        raise InputError(f"{stage}.yaml: model.init_args.network is a {name}, and not a {wanted.__name__}")
    return flops.model_of(MODELS[stage], config)


def table(configs: dict[str, dict[str, Any]], counts: dict[str, Count]) -> str:
    """Table 3 and what was counted, as text; a value that is not the paper's is followed by the paper's."""
    lines = [["", *TITLES]]
    for row, (_, papers) in ROWS.items():
        cells = []
        for stage, paper in zip(STAGES, papers, strict=True):
            ours = setting(stage, row, configs[stage])
            same = ours == paper
            cells.append(
                text_of(None if same and paper is None else ours) + ("" if same else f" (paper: {text_of(paper)})")
            )
        lines.append([row, *cells])
    every = [counts[stage] for stage in STAGES]
    lines += [
        ["model size", *(f"{size_text(SIZES[stage])} (the paper's)" for stage in STAGES)],
        ["parameters counted", *(f"{size_text(c.parameters)}" for c in every)],
        ["  of the paper's", *(f"{c.parameters / SIZES[stage]:.2f}x" for stage, c in zip(STAGES, every, strict=True))],
        ["FLOPs, one forward pass", *(size_text(c.forward) for c in every)],
        ["FLOPs, one image", *(size_text(c.image) for c in every)],
    ]
    shares = [c.image / sum(c.image for c in every[1:]) for c in every]
    lines.append(["  share, with this prior", "-", *(f"{100 * share:.0f} %" for share in shares[1:])])
    notes = [note(stage, configs[stage], counts[stage]) for stage in STAGES]
    notes = [f"{title}: {text}." for title, text in zip(TITLES, notes, strict=True)]
    explained = (
        "One forward pass is one sample of a training batch (an upsampler's crop). One image counts guidance, the two "
        "draws of the diffusion prior, the key/value caches, and the upsamplers at full size."
    )
    return "\n".join([aligned(lines), "", explained, *notes])


def note(stage: str, config: dict[str, Any], counted: Count) -> str:
    """A stage's parameters by part; and, where it is so, why they are not as many as the paper says."""
    texts = [_parts(counted), why(stage, config, counted)]
    codes, context = lookup(config, NETWORK + "num_codes"), setting(stage, "text context", config)
    papers = ROWS["latent decoder context"][1][STAGES.index(stage)]
    if papers is not None and codes and codes + context > papers:
        texts.append(
            f"the paper's latent decoder context of {papers} has no room for the {context} caption tokens that section "
            f"2.2 puts in front of the {codes} codes; ours is caption, z_t, dot product and codes"
        )
    return "; ".join(text for text in texts if text)


def why(stage: str, config: dict[str, Any], counted: Count) -> str:
    """Why a count is not the paper's size; '' where it is, within 5 %."""
    paper, number = SIZES[stage], counted.parameters
    if abs(number / paper - 1) <= 0.05:
        return ""
    papers = {row: ROWS[row][1][STAGES.index(stage)] for row in SHAPE}
    ours = {row: setting(stage, row, config) for row in SHAPE}
    others = [
        f"{row} {text_of(ours[row])} (paper: {text_of(papers[row])})" for row in SHAPE if ours[row] != papers[row]
    ]
    if others:
        return f"not the paper's network: {', '.join(others)}"
    if float(f"{number:.0e}") == paper:
        return f"to one digit, as the paper gives it, this is its {size_text(paper)}"
    if stage == "ar_prior":
        text, latent = (size_text(counted.parts.get(part, 0)) for part in ("text", "transformer"))
        return (
            f"Table 3's text encoder and latent decoder have {text} and {latent} by their widths and depths alone, so "
            f"{size_text(paper)} can be one of them only"
        )
    if stage == "decoder":
        new = counted.parts.get("projections of z_i", 0)
        return f"the paper's {size_text(paper)} is GLIDE's, whose caption vocabulary is its own" + (
            "; z_i's projections are new" if new else ""
        )
    return f"the network is Table 3's; what the paper's {size_text(paper)} leaves out is not known"


def _parts(counted: Count) -> str:
    return ", ".join(f"{name} {size_text(number)}" for name, number in counted.parts.items())
