"""A file of weights and the network that takes them: every tensor is checked by name before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from modules.errors import InputError
from modules.untrusted.eight_bits import unpacked
from modules.untrusted.reading import open_regular, printable

MAX_HEADER = 2**24
"""Bytes of a safetensors header: 100 bytes a tensor, so that 100,000 tensors have room."""

MAX_NUMBERS = 2**48
"""Numbers of a tensor."""
MAX_DIMENSIONS = 64
"""Of a tensor; torch itself takes no more."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By safetensors' names; those of others are never a network's."""


def read_weights(path: Path, known: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, 8-bit ones unpacked, and the first 12 digits of the file's SHA-256.

    Args:
        path: the file.
        known: these digits, where the file has been read before: it is then neither hashed nor looked through.

    Raises:
        InputError: no regular file, a header out of bounds, scales that fit no matrix, or a tensor that is not finite.
        SafetensorError, OSError: damaged, missing.
    """
    check_header(path)
    tensors = unpacked(load_file(path), path)
    if known is not None:
        return tensors, known
    digest = file_hash(path)[:12]
    check_finite(tensors, path)
    return tensors, digest


def check_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, if its reader may be given it.

    Raises:
        InputError: no regular file, a header that is too long, or a tensor of an absurd shape.
        SafetensorError: there is no header.
        OSError: the file is missing.
    """
    with open_regular(path) as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8:
            raise SafetensorError("the file has no header")
        if length > MAX_HEADER:
            raise InputError(f"{path}: its header says that it has {length:,} bytes; the limit is {MAX_HEADER:,}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise SafetensorError("the header is no JSON") from error
    if not isinstance(header, dict):
        raise SafetensorError("the header is no mapping")
    for name, about in header.items():
        shape = about.get("shape") if isinstance(about, dict) else None
        if isinstance(shape, list) and _is_absurd(shape):
            raise InputError(f"{path}: {printable(name[:100])} has a shape that no tensor has")
    return header


def _is_absurd(shape: list[Any]) -> bool:
    """Whether a shape is of more numbers than any tensor; a side of 0 counts as 1, as the file need hold nothing then.

    It stops at the first side that is too much: the product of a million sides of 4,000 digits takes hours.
    """
    numbers = 1
    for side in shape:
        numbers *= max(1, side) if isinstance(side, int) else 1
        if numbers >= MAX_NUMBERS:
            return True
    return len(shape) > MAX_DIMENSIONS


def header_of(path: Path) -> dict[str, Tensor]:
    """The tensors that `read_weights` would give, on the meta device: their names, shapes and dtypes.

    Raises:
        InputError, SafetensorError, OSError: as `check_header`, and for scales that fit no matrix; safetensors itself
            checks the offsets.
    """
    check_header(path)
    found = {}
    with safe_open(path, framework="pt") as file, torch.device("meta"):
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(name)
            found[name] = torch.empty(part.get_shape(), dtype=DTYPES.get(part.get_dtype(), torch.uint8))
    return unpacked(found, path)


def check_shapes(expected: int, found: int, path: Path) -> None:
    """Refuse a network that is far larger than its file of weights, before it takes memory.

    Raises:
        InputError: names both numbers of weights.
    """
    if expected > 2 * found + 10**6:
        raise InputError(f"{path} holds {found:,} numbers, but the config is of a network of {expected:,}")


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with NaN or infinity, of types that cannot be looked at (8 bits and fewer), or all of them zero.

    A checkpoint may say that one stored number stands for a tensor of any size, or hold a sparse tensor: to look
    through it would fill the memory, so it is refused first.

    Raises:
        InputError: names the tensor and the file.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise InputError(f"{path}: {printable(name)} does not store all of its numbers, as a network's tensors do")
        if tensor.dtype not in (*DTYPES.values(), torch.complex64):
            raise InputError(f"{path}: {printable(name)} is of {_dtype(tensor)}, which no network here computes with")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {printable(name)} is not finite (NaN or infinity): what it draws would be black. Get or "
                "export this stage again"
            )
    matrices = [tensor for tensor in tensors.values() if tensor.is_floating_point() and tensor.ndim > 1]
    if matrices and not any(bool(tensor.any()) for tensor in matrices):
        raise InputError(f"{path}: all of its weights are 0, which no training leaves: get or export this stage again")


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a tensor that is missing, extra, or of another shape or dtype; half precisions may stand for float32.

    Args:
        expected: a tensor of each name with the shape and dtype that is needed; it may be on the meta device.
        found: those of the file.

    Raises:
        InputError: names the first one and the file.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise InputError(f"{path}: the weights lack {missing[0]} and {len(missing) - 1} more of config.yaml's network")
    extra = [name for name in found if name not in expected]
    if extra:
        raise InputError(
            f"{path}: the weights are of another network than config.yaml's: it has no {printable(extra[0])}"
            + (f", nor {len(extra) - 1} more" if extra[1:] else "")
        )
    for name, tensor in found.items():
        wanted = expected[name]
        half = tensor.dtype in (torch.float16, torch.bfloat16) and wanted.dtype == torch.float32
        if tensor.shape != wanted.shape or not (half or tensor.dtype == wanted.dtype):
            raise InputError(
                f"{path}: the weights are of another network than config.yaml's: {name} is "
                f"{tuple(tensor.shape)} of {_dtype(tensor)}, not {tuple(wanted.shape)} of {_dtype(wanted)}"
            )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def widened(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file with those that were stored in half precision as the network computes with them."""
    return {name: tensor.to(expected[name].dtype) if name in expected else tensor for name, tensor in found.items()}


@contextmanager
def at_most_parameters(count: int) -> Iterator[None]:
    """Refuse, while it is being made, a network with more parameters than its file can have tensors.

    Raises:
        InputError: in the block, at the parameter that is one too many.
    """
    left = [count]

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        left[0] -= parameter is not None
        if left[0] < 0:
            raise InputError("the network has more layers than the file of weights has tensors")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
