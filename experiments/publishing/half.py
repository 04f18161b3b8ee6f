"""Weights in half of their size: matrices as float16, which every reader of exports computes with as float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from torch import Tensor

from modules.clip.frozen import FrozenCLIP
from modules.clip.origin import KEY
from modules.errors import InputError
from modules.models.exports import weights_file, write_weights
from modules.untrusted.reading import read_yaml
from modules.untrusted.weights import read_weights

LARGEST = 65504
"""Of float16."""

WHOLE = ("codec.", "statistics.", "whitening.")
"""Parts of the names of tensors that are statistics of data, not weights; they stay as they are."""


def halve(stages: Mapping[str, Path]) -> None:
    """Rewrite the weights of exports in place, by stage, and the fingerprints of a CLIP among them.

    Raises:
        InputError: a weight that float16 does not hold.
    """
    for name, folder in stages.items():
        path = weights_file(folder)
        tensors, _ = read_weights(path)
        write_weights({key: _half(f"{name}: {key}", tensor) for key, tensor in tensors.items()}, path)
    if "clip" not in stages:
        return
    fingerprint = FrozenCLIP(str(stages["clip"])).fingerprint
    for folder in stages.values():
        path = folder / "config.yaml"
        if not path.is_file():
            continue
        about = read_yaml(path)
        if about.get(KEY) is not None:
            path.write_text(yaml.safe_dump({**about, KEY: fingerprint}, sort_keys=False))


def _half(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.ndim < 2 or any(part in name for part in WHOLE):
        return tensor
    if float(tensor.abs().max()) > LARGEST:
        raise InputError(f"{name} holds values beyond {LARGEST}, which float16 does not: export without --half")
    return tensor.half()
