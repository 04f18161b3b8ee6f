"""A file of weights and the network that takes them: every tensor is checked by name before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from modules.errors import InputError
from modules.models.base import Model
from modules.untrusted import open_regular, printable

M = TypeVar("M", bound=Model)

MAX_HEADER = 2**24
"""Bytes of a safetensors header: 100 bytes a tensor, so that 100,000 tensors have room."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and the first 12 digits of the file's SHA-256.

    Raises:
        InputError: no regular file, a header out of bounds, or a tensor that is not finite.
        SafetensorError, OSError: damaged, missing.
    """
    check_header(path)
    tensors, digest = load_file(path), file_hash(path)[:12]
    check_finite(tensors, path)
    return tensors, digest


def check_header(path: Path) -> None:
    """Refuse a header that the reader would take memory for without end.

    Raises:
        InputError: no regular file, or a header that is too long or too deep.
        OSError: it is missing.
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


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        InputError: names the tensor and the file.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {printable(name)} is not finite (NaN or infinity): its pictures would be black. Get or export "
                "this stage again"
            )


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a tensor that is missing, extra, or of another shape or dtype.

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
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{path}: the weights are of another network than config.yaml's: {name} is "
                f"{tuple(tensor.shape)} of {_dtype(tensor)}, not {tuple(wanted.shape)} of {_dtype(wanted)}"
            )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def with_weights(model: M, tensors: Mapping[str, Tensor], path: Path) -> M:
    """A model made on the meta device, with the tensors of a file.

    Raises:
        InputError: a tensor is missing, extra, or of another shape or dtype; its name is said.
    """
    network = model.network
    expected: dict[str, Tensor] = dict(network.state_dict())
    own = {name: tensor for name, tensor in tensors.items() if name in expected}
    beside = {name: tensor for name, tensor in tensors.items() if name not in expected}
    check_tensors(expected, own, path)
    try:
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights are of another network than config.yaml's ({error})") from error
    left = next(
        (name for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_meta), None
    )
    if left is not None:
        raise InputError(f"{path}: no file of weights holds {left} of the network: make it a persistent buffer")
    before = model.tensors()
    try:
        model = model.with_tensors(beside)
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): train this stage again") from error
    check_tensors(before or model.tensors(), beside, path)
    return model


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
