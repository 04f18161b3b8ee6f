"""Weights in half or a quarter of their size: matrices as float16 or 8-bit integers. All readers compute in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from modules.clip.frozen import WEIGHTS_FILE as CLIP_WEIGHTS
from modules.clip.frozen import FrozenCLIP
from modules.clip.origin import KEY, same_clip
from modules.errors import InputError
from modules.models.exports import weights_file, write_weights
from modules.untrusted.eight_bits import packed
from modules.untrusted.reading import printable, read_yaml
from modules.untrusted.weights import read_weights

LARGEST = 65504
"""Of float16."""

WHOLE = ("codec.", "statistics.", "whitening.", "empty.")
"""Parts of the names of tensors that are statistics of data, or the empty caption, and no weights; they stay."""


def shrink(stages: Mapping[str, Path], out: Path, *, eight_bits: bool = False) -> None:
    """Rewrite the weights of the exports in `out`, and the fingerprint of the CLIP where it is theirs.

    Args:
        stages: by name, the exports as they were trained; they stay as they are, and the messages name them.
        out: holds a copy of each, by its name.
        eight_bits: matrices as 8-bit integers (`modules.untrusted.eight_bits`), but for a CLIP's, which open_clip
            reads: those are float16.

    Raises:
        InputError: weights or configs that cannot be read, or a weight that float16 does not hold.
    """
    for name, source in stages.items():
        path = weights_file(source)
        try:
            tensors, _ = read_weights(path)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:200]})") from error
        small: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            if not _is_matrix(key, tensor):
                small[key] = tensor
            elif eight_bits and path.name != CLIP_WEIGHTS:
                small |= packed(key, tensor)
            else:
                small[key] = _half(f"{name}: {printable(key)}", tensor)
        write_weights(small, out / name / path.name)
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


def _is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a trained matrix in float32."""
    return (
        tensor.dtype == torch.float32
        and tensor.ndim > 1
        and tensor.numel() > 0
        and not any(part in name for part in WHOLE)
    )


def _half(name: str, tensor: Tensor) -> Tensor:
    if float(tensor.abs().max()) > LARGEST:
        raise InputError(
            f"{name} holds values beyond {LARGEST}, which float16 does not: export without --half or --int8"
        )
    return tensor.half()
