"""`unclip import-dvae`: OpenAI's released dVAE, from state dicts of its two halves, as a stage of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from experiments.storage.folders import write_text
from modules.errors import InputError
from modules.models.dalle1.dvae import DVAEModel
from modules.models.dalle1.openai_layout import from_openai, read_state_dict
from modules.models.exports import WEIGHTS, load_model, write_weights
from modules.networks.dalle1.dvae import DVAENetwork


def run(options: argparse.Namespace) -> int:
    """Run `unclip import-dvae`; returns the exit code."""
    folder = Path(options.out) / "export"
    if folder.exists() and not options.overwrite:
        raise InputError(f"{folder} is there already: name another --out, or pass --overwrite")
    network, sizes = from_openai(
        read_state_dict(Path(options.encoder)), read_state_dict(Path(options.decoder)), options.image_size
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(network.state_dict(), folder / WEIGHTS[0])
    arguments = {"class_path": class_path(DVAENetwork), "init_args": sizes.arguments(options.image_size)}
    about = {
        "class_path": "modules.dalle1.dvae.DVAE",
        "init_args": {"network": arguments},
        "model": class_path(DVAEModel),
        "step": 0,
    }
    write_text(folder / "config.yaml", yaml.safe_dump(about, sort_keys=False))
    model = load_model(options.out, DVAEModel).model
    count = sum(parameter.numel() for parameter in model.network.parameters())
    print(
        f"{folder}: {count / 1e6:.1f} M parameters, {model.image_size} px to {model.grid} x {model.grid} tokens of "
        f"{sizes.num_codes}"
    )
    return 0


def class_path(kind: type) -> str:
    """The path of a class, as package.module.Class."""
    return f"{kind.__module__}.{kind.__qualname__}"
