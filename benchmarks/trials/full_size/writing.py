"""Exports with random weights in bfloat16, written tensor by tensor: no more than one of them is in memory."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from modules.clip.folder import CONFIG_FILE, EMBEDDINGS_KEY, TOKENIZER_KEY, WEIGHTS_FILE, shapes_of
from modules.models.base import Model
from modules.models.exports import build
from modules.untrusted.allowed import class_named

NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
"""As safetensors has them."""

PART = 2**24
"""Numbers that are drawn at once."""


def write_random(path: Path, tensors: Mapping[str, Tensor], seed: int = 0) -> int:
    """A safetensors file of fresh weights.

    Matrices are normal with deviation fan_in^-1/2, vectors of norms 1, all other vectors 0; so signals keep their size.

    Args:
        path: the file to write.
        tensors: have the names, shapes and dtypes to write; they may be on the meta device. Floats become bfloat16.
        seed: of the weights.

    Returns:
        How many numbers.
    """
    header: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        kind = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
        end = start + tensor.numel() * kind.itemsize
        header[name] = {"dtype": NAMES[kind], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            for first in range(0, tensor.numel(), PART):
                part = _numbers(name, tensor, min(PART, tensor.numel() - first), generator)
                file.write(part.contiguous().view(torch.uint8).numpy().tobytes())
    return sum(tensor.numel() for tensor in tensors.values())


def _numbers(name: str, tensor: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) values of a tensor, in the dtype that it is written in."""
    if not tensor.is_floating_point():
        return torch.ones(count, dtype=tensor.dtype)
    if tensor.ndim > 1:
        fan_in = math.prod(tensor.shape[1:])
        return (torch.randn(count, generator=generator) * fan_in**-0.5).bfloat16()
    ones = ("norm" in name and name.endswith("weight")) or name.rpartition(".")[2] in ("std", "logit_scale")
    return torch.full((count,), 1.0 if ones else 0.0, dtype=torch.bfloat16)


def write_stage(folder: Path, config: Path, changes: Mapping[str, Any], seed: int) -> int:
    """The export of a stage's YAML, as training leaves it; gives the number of its numbers.

    Args:
        folder: of the stage.
        config: the YAML; of it the model's class and arguments are taken.
        changes: other values for arguments of the network, by path: {"unet.channels": 32}.
        seed: of the weights.
    """
    model = yaml.safe_load(config.read_text())["model"]
    for path, value in changes.items():
        place = model["init_args"]["network"]["init_args"]
        *outer, last = path.split(".")
        for key in outer:
            place = place[key]
        place[last] = value
    kind = _model_of(model["class_path"])
    with torch.device("meta"):
        network: nn.Module = build(kind, model["init_args"]).network
    (folder / "export").mkdir(parents=True)
    about = {**model, "model": f"{kind.__module__}.{kind.__qualname__}"}
    (folder / "export" / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    return write_random(folder / "export" / "model.safetensors", network.state_dict(), seed)


def _model_of(class_path: str) -> type[Model]:
    from modules.aliases import MODELS

    return class_named(MODELS[class_path], Model, package="modules")


def write_clip(folder: Path, vision: Mapping[str, Any], text: Mapping[str, Any], dim: int, seed: int) -> int:
    """An open_clip folder whose embeddings are raw, of random weights; gives the number of its numbers."""
    place = folder / "export"
    place.mkdir(parents=True)
    model = {"embed_dim": dim, "quick_gelu": True, "vision_cfg": dict(vision), "text_cfg": dict(text)}
    preprocess = {"size": vision["image_size"], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    content = {"model_cfg": model, "preprocess_cfg": preprocess, TOKENIZER_KEY: "bpe", EMBEDDINGS_KEY: "raw"}
    (place / CONFIG_FILE).write_text(json.dumps(content))
    return write_random(place / WEIGHTS_FILE, shapes_of(place).state_dict(), seed)
