"""Compares tensors by their bits, also where they have been renamed: exports, checkpoints, arrays and pictures."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.trials.same_numbers.found import Found

RENAMED: tuple[tuple[str, str], ...] = ()
"""(pattern, replacement) for `re.sub`: turn a tensor's new name into the one that it had before.

It is needed only for a renamed tensor that also differs: a tensor with the same bits is found under any name.
"""
NOT_STATE = ("hyper_parameters", "datamodule_hyper_parameters", "hparams_name", "pytorch-lightning_version")
"""Keys of a checkpoint that hold settings and versions."""
NUMBER = "float64 ()"
"""The kind of a tensor that stands for a number in a checkpoint."""


def old_name(name: str) -> str:
    """The name that a tensor had before it was renamed."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def compare_tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Found:
    """Compare two mappings of names to tensors, bit for bit.

    Tensors of one name are compared. Of the others, those with the same bits belong together, and then those of the
    same shape and type in their order. A tensor without a partner is a difference; a new number is noted.
    """
    found = Found("tensors", compared=len(before))
    after = {old_name(name): tensor for name, tensor in after.items()}
    pairs = {name: name for name in before if name in after}
    left = {name: tensor for name, tensor in before.items() if name not in pairs}
    right = {name: tensor for name, tensor in after.items() if name not in pairs}
    renamed = partners(left, right, bits) if left and right else {}
    left, right = without(left, renamed), without(right, renamed.values())
    renamed |= partners(left, right, kind)
    found.notes += [f"{name} is now {new}" for name, new in renamed.items()]
    for name, new in (pairs | renamed).items():
        compare_pair(found, name, before[name], after[new])
    for name in without(left, renamed):
        found.differs(name, "missing now")
    for name, tensor in without(right, renamed.values()).items():
        if kind(tensor) == NUMBER:
            found.notes.append(f"{name} (new)")
        else:
            found.differs(name, "not there before")
    return found


def compare_pair(found: Found, name: str, a: Tensor, b: Tensor) -> None:
    """Compare two tensors bit for bit: 0 and -0 differ, and so do two kinds of NaN."""
    if kind(a) != kind(b):
        found.differs(name, f"{kind(a)} before, {kind(b)} now")
    elif bits(a) != bits(b):
        unequal = (a != b) & ~(a.isnan() & b.isnan())
        size = (a.double() - b.double()).abs()[unequal].max().item() if unequal.any() else 0.0
        found.differs(name, f"{int(unequal.sum())} of {a.numel()} values, by {size:.3g} at most", size)


def partners(left: Mapping[str, Tensor], right: Mapping[str, Tensor], key: Any) -> dict[str, str]:
    """Names in `left` -> names in `right` of tensors with the same key; equal keys are paired in their order."""
    candidates: dict[str, list[str]] = defaultdict(list)
    for name in reversed(list(right)):
        candidates[key(right[name])].append(name)
    return {name: candidates[key(tensor)].pop() for name, tensor in left.items() if candidates[key(tensor)]}


def without(tensors: Mapping[str, Tensor], names: Any) -> dict[str, Tensor]:
    """The tensors whose names are not among `names`."""
    taken = set(names)
    return {name: tensor for name, tensor in tensors.items() if name not in taken}


def kind(tensor: Tensor) -> str:
    """Type and shape, such as 'float32 (64, 128)'."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def bits(tensor: Tensor) -> str:
    """A checksum of a tensor's type, shape and bits."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{kind(tensor)} {hashlib.sha256(content).hexdigest()}"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors, .ckpt, .pt, .npy, .npz or picture file, by name."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in (".ckpt", ".pt"):
        return dict(leaves(torch.load(path, map_location="cpu", weights_only=True)))
    if path.suffix in (".npy", ".npz"):
        content = np.load(path)
        arrays = {"array": content} if path.suffix == ".npy" else dict(content.items())
        return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind in "fiub"}
    with Image.open(path) as image:
        return {"pixels": torch.from_numpy(np.array(image.convert("RGBA" if "A" in image.mode else "RGB")))}


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in the nest of a checkpoint, and its numbers as tensors, by the way to them."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, (bool, int, float)):
        # A whole number may be larger than 64 bits allow: only its value has to be the same.
        yield name, torch.tensor(float(content), dtype=torch.float64)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            if key not in NOT_STATE:
                yield from leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from leaves(value, f"{name}[{number}]")
