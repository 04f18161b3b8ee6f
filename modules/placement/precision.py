"""Networks that compute in bfloat16: their matrices are stored so, and whatever they are asked runs under autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

ENTRANCES = ("forward", "condition", "encode", "step", "sample")
"""The methods of our networks that models call."""


def narrowed(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors with its matrices (parameters of two dimensions or more) in bfloat16, all else in float32.

    Vectors stay, for they are a thousandth of the memory, and norms compute with them. Buffers stay, for they hold
    statistics.

    Args:
        network: of any kind of tensors; only its names are read.
        tensors: by their names in the network.
    """
    matrices = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    kinds = {name: torch.bfloat16 if name in matrices else torch.float32 for name in tensors}
    return {name: t.to(kinds[name]) if t.is_floating_point() else t for name, t in tensors.items()}


def compute_in_bfloat16(network: nn.Module, device: torch.device) -> None:
    """Let all that a network is asked run under autocast on a device of that type. Its class becomes a subclass."""
    network.__class__ = _under_autocast(type(network), device.type)  # type: ignore[arg-type]  # types do hash


@cache
def _under_autocast(kind: type[nn.Module], device_type: str) -> type[nn.Module]:
    """A subclass of a network's class: methods put on the object itself would refer to it, and keep it in memory."""
    own = {name: _cast(getattr(kind, name), device_type) for name in ENTRANCES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), {**own, "__module__": kind.__module__})


def _cast(method: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            return method(*args, **kwargs)

    return run
