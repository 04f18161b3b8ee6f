"""`unclip dalle1-table`: the sizes of DALL-E 1's two networks from the paper-scale YAMLs, beside the paper's.

As in `unclip table3` the networks are built on the meta device: shapes without numbers.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from eval.tables.hyperparameters import lookup, size_text
from experiments.console.shipped import located
from experiments.console.show import aligned
from experiments.costs import flops
from experiments.costs.flops import Count
from experiments.costs.stage_config import stage_config
from experiments.storage.folders import write_text
from modules.models.base import Model
from modules.models.dalle1.dvae import DVAEModel
from modules.models.dalle1.token_transformer import TokenTransformerModel

MODELS: dict[str, type[Model]] = {"dvae": DVAEModel, "token_transformer": TokenTransformerModel}
TITLES = {"dvae": "dVAE", "token_transformer": "Transformer"}
SIZES = {"dvae": 97.6e6, "token_transformer": 12e9}
"""Parameters: the released dVAE's, counted; the paper's "12-billion parameter" Transformer (section 2)."""

NETWORK = "model.init_args.network.init_args."
OPTIMIZER = "model.init_args.optimizer.init_args."
TRAINING = "model.init_args.training."
BATCH = "data.init_args.batch_size x trainer.devices x trainer.num_nodes"
PAPER: dict[str, dict[str, tuple[str, object]]] = {
    "dvae": {
        "codes": (NETWORK + "num_codes", 8192),
        "width": (NETWORK + "width", 256),
        "width multiples": (NETWORK + "multipliers", [1, 2, 4, 8]),
        "blocks of a group": (NETWORK + "blocks", 2),
        "image size": (NETWORK + "image_size", 256),
        "beta": ("model.init_args.schedules.beta.end", 6.6),
        "beta's updates": ("model.init_args.schedules.beta.steps", 5000),
        "temperature": ("model.init_args.schedules.temperature.end", 1 / 16),
        "temperature's updates": ("model.init_args.schedules.temperature.steps", 150_000),
        "step size": (OPTIMIZER + "lr", 1e-4),
        "step size at the end, a share": ("model.init_args.schedules.step_size.end", 1.25e-6 / 1e-4),
        "step size's updates": ("model.init_args.schedules.step_size.steps", 1_200_000),
        "weight decay": (OPTIMIZER + "weight_decay", 1e-4),
        "Adam betas": (OPTIMIZER + "betas", [0.9, 0.999]),
        "Adam epsilon": (OPTIMIZER + "eps", 1e-8),
        "iterate average": (TRAINING + "ema_decay", 0.999),
        "batch": (BATCH, 512),
        "updates": ("trainer.max_steps", 3_000_000),
    },
    "token_transformer": {
        "text tokens": (NETWORK + "context_length", 256),
        "text vocabulary": (NETWORK + "vocab_size", 16_384),
        "image tokens, a side": (NETWORK + "grid", 32),
        "codes": (NETWORK + "num_codes", 8192),
        "layers": (NETWORK + "depth", 64),
        "heads": (NETWORK + "heads", 62),
        "width": (NETWORK + "width", 3968),
        "convolution's kernel": (NETWORK + "kernel", 11),
        "masks": (NETWORK + "masks", "paper"),
        "BPE dropout": ("model.init_args.bpe_dropout.init_args.rate", 0.1),
        "step size": (OPTIMIZER + "lr", 4.5e-4),
        "weight decay": (OPTIMIZER + "weight_decay", 4.5e-2),
        "Adam betas": (OPTIMIZER + "betas", [0.9, 0.96]),
        "Adam epsilon": (OPTIMIZER + "eps", 1e-8),
        "warm-up": (TRAINING + "warmup_steps", 5000),
        "iterate average": (TRAINING + "ema_decay", 0.9996),
        "clip norm": ("trainer.gradient_clip_val", 4.0),
        "batch": (BATCH, 1024),
        "updates": ("trainer.max_steps", 430_000),
    },
}
"""Rows of a stage: where its YAML has them, and the paper's value (sections 2 and 3, appendices A and B).

Places with " x " between them are multiplied. The paper averages the Transformer every 25 updates by 0.99, which is
0.9996 at every update.
"""


def run(options: argparse.Namespace) -> int:
    """Run `unclip dalle1-table`; returns the exit code."""
    folder = located(options.folder)
    configs = {stage: stage_config(folder / f"{stage}.yaml", tuple(MODELS)) for stage in MODELS}
    text = "\n\n".join(
        table(stage, config, flops.count(flops.model_of(MODELS[stage], config))) for stage, config in configs.items()
    )
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def table(stage: str, config: dict[str, Any], counted: Count) -> str:
    """A stage's rows and what was counted, as text; a value that is not the paper's is followed by the paper's."""
    lines = [[TITLES[stage], "", "the paper's, where it differs"]]
    for row, (key, paper) in PAPER[stage].items():
        ours = _found(config, key)
        same = (list(ours) if isinstance(ours, tuple) else ours) == paper
        lines.append([row, _text(ours), "" if same else _text(paper)])
    lines += [
        [
            "parameters counted",
            size_text(counted.parameters),
            f"{size_text(SIZES[stage])}: {counted.parameters / SIZES[stage]:.2f}x",
        ],
        *([f"  {name}", size_text(number), ""] for name, number in counted.parts.items()),
        ["FLOPs, one forward pass", size_text(counted.forward), ""],
        ["FLOPs, one image", size_text(counted.image), ""],
    ]
    return aligned(lines)


def _found(config: dict[str, Any], key: str) -> object:
    """The value at a place of the config, or the product of those at several."""
    found = [lookup(config, part) for part in key.split(" x ")]
    return found[0] if len(found) == 1 else math.prod(found)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
