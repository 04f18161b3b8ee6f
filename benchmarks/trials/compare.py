"""What differs between two runs, bit for bit."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Paths of what is not the same in two nests of tensors and plain values, as checkpoints are."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} {type(b).__name__}"]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and same_bits(a, b) else [where]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{where}: {list(a)} {list(b)}"]
        return [path for key in a for path in differing(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: {len(a)} {len(b)}"]
        parts = (differing(x, y, f"{where}[{k}]") for k, (x, y) in enumerate(zip(a, b, strict=True)))
        return [path for part in parts for path in part]
    same = a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
    return [] if same else [f"{where}: {a} {b}"]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal; NaN is equal to NaN."""
    return a.shape == b.shape and bool(torch.equal(a, b) or (a.isnan() & b.isnan() | (a == b)).all())


def differing_runs(first: Path, second: Path) -> list[str]:
    """What differs between two finished runs of a stage: their last checkpoints, and the files that they exported."""
    from experiments.training.checkpoints import LAST, load_checkpoint

    found = differing(load_checkpoint(first / LAST), load_checkpoint(second / LAST))
    ours, theirs = (digests(run / "export", "*.safetensors") for run in (first, second))
    return found + [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Relative path -> SHA-256 of each file below `folder` that matches."""
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
