"""Weights in half of their size: matrices as float16, which every reader of exports computes with as float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from modules.clip.frozen import FrozenCLIP
from modules.clip.origin import KEY, same_clip
from modules.errors import InputError
from modules.models.exports import weights_file, write_weights
from modules.untrusted.reading import printable, read_yaml
from modules.untrusted.weights import read_weights

LARGEST = 65504
"""Of float16."""

WHOLE = ("codec.", "statistics.", "whitening.", "empty.")
"""Parts of the names of tensors that are statistics of data, or the empty caption, and no weights; they stay."""


def halve(stages: Mapping[str, Path], out: Path) -> None:
    """Rewrite the weights of the exports in `out`, and the fingerprint of the CLIP where it is theirs.

    Args:
        stages: by name, the exports as they were trained; they stay as they are, and the messages name them.
        out: holds a copy of each, by its name.

    Raises:
        InputError: weights or configs that cannot be read, or a weight that float16 does not hold.
    """
    for name, source in stages.items():
        path = weights_file(source)
        try:
            tensors, _ = read_weights(path)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:200]})") from error
        half = {key: _half(f"{name}: {printable(key)}", tensor) for key, tensor in tensors.items()}
        write_weights(half, out / name / path.name)
    if "clip" in stages:
        whole, rounded = (FrozenCLIP(str(folder)).fingerprint for folder in (stages["clip"], out / "clip"))
        for name, source in stages.items():
            _name_clip(source / "config.yaml", out / name / "config.yaml", whole, rounded)


def _name_clip(source: Path, target: Path, whole: str, rounded: str) -> None:
    """Let a stage that was trained on the CLIP know its rounded weights; one of another CLIP stays another's."""
    if not source.is_file():
        return
    try:
        about = read_yaml(source)
        known = about.get(KEY)
    except (AttributeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{source} is damaged ({printable(' '.join(str(error).split())[:200])})") from error
    if known is not None and same_clip(str(known), whole):
        target.write_text(yaml.safe_dump({**about, KEY: rounded}, sort_keys=False), encoding="utf-8")


def _half(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.ndim < 2 or not tensor.numel() or any(part in name for part in WHOLE):
        return tensor
    if float(tensor.abs().max()) > LARGEST:
        raise InputError(f"{name} holds values beyond {LARGEST}, which float16 does not: export without --half")
    return tensor.half()
