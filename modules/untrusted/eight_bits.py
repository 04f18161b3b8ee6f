"""Matrices as 8-bit integers with a scale for each row, for files of a quarter of the size.

In a file of weights, NAME holds the integers and NAME.int8_scale the scales. Readers of files give the product, in
float32; nothing computes in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from modules.errors import InputError
from modules.untrusted.reading import printable

SCALE = ".int8_scale"
"""Ends the name of the tensor of scales."""


def packed(name: str, matrix: Tensor) -> dict[str, Tensor]:
    """The two tensors of a float32 matrix (N, ...): int8 of its shape, and float32 (N,).

    A row's scale is its largest magnitude / 127, so no number is off by more than half a scale.
    """
    rows = matrix.flatten(1)
    scale = rows.abs().amax(dim=1) / 127
    units = (rows / scale.where(scale > 0, 1)[:, None]).round().clamp(-127, 127)
    return {name: units.to(torch.int8).view_as(matrix), name + SCALE: scale}


def unpacked(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A file's tensors with the packed ones as float32; on the meta device too.

    Args:
        tensors: the file's.
        path: the file, for messages.

    Raises:
        InputError: scales without integers, or of another shape or dtype than one number for each row.
    """
    found = dict(tensors)
    for key in [name for name in tensors if name.endswith(SCALE)]:
        name, scale = key.removesuffix(SCALE), found.pop(key)
        units = tensors.get(name)
        if units is None or units.dtype != torch.int8 or units.ndim < 2:
            raise InputError(f"{path}: {printable(key)} scales no matrix of 8-bit integers: export this stage again")
        if scale.dtype != torch.float32 or scale.shape != units.shape[:1]:
            raise InputError(f"{path}: {printable(key)} must hold a float32 number for each row of {printable(name)}")
        found[name] = units.float() * scale.view(-1, *[1] * (units.ndim - 1))
    return found
