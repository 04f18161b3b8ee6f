"""Networks whose matrices are stored in bfloat16, and how they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ENTRANCES = ("forward", "condition", "encode", "step", "sample")
"""The methods of our networks that models call."""

DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]

LOOKS = ("__get__", "size", "dim", "stride", "numel", "is_contiguous", "is_floating_point", "__len__")
"""Functions that look at a tensor and not at its numbers."""


def narrowed(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors with its matrices (parameters of two dimensions or more) in bfloat16, all else in float32.

    Vectors stay, for they are a thousandth of the memory, and norms compute with them. Buffers stay, for they hold
    statistics.

    Args:
        network: its tensors may lie on any device, and have any type: only their names are read.
        tensors: the weights, by their names in the network.
    """
    matrices = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    kinds = {name: torch.bfloat16 if name in matrices else torch.float32 for name in tensors}
    return {name: t.to(kinds[name]) if t.is_floating_point() else t for name, t in tensors.items()}


def compute_in_bfloat16(network: nn.Module, device: torch.device) -> None:
    """Let a network with `narrowed` tensors compute: all that it is asked runs so. Its class becomes a subclass.

    On an accelerator products are in bfloat16 (autocast). On a CPU a matrix is widened for as long as it is used, and
    products are in float32: many CPUs have no instructions for bfloat16, and take far longer without them.
    """
    network.__class__ = _subclass(type(network), device.type)  # type: ignore[arg-type]  # types do hash


@cache
def _subclass(kind: type[nn.Module], device_type: str) -> type[nn.Module]:
    """A subclass of a network's class: methods put on the object itself would refer to it, and keep it in memory."""
    own = {name: _within(getattr(kind, name), device_type) for name in ENTRANCES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), {**own, "__module__": kind.__module__})


def _within(method: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with Widening() if device_type == "cpu" else torch.autocast(device_type, torch.bfloat16):
            return method(*args, **kwargs)

    return run


class Widening(TorchFunctionMode):
    """Under it, a parameter in bfloat16 acts as one in float32: each function of torch is given a copy of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == DTYPE:
            found = func(*args)
            return torch.float32 if _narrow(args[0]) else found
        if func.__name__ in LOOKS:
            return func(*args, **(kwargs or {}))
        return func(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _narrow(value: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return isinstance(value, nn.Parameter) and value.dtype == torch.bfloat16


def _widened(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(map(_narrow, value)):
        return type(value)([_widened(part) for part in value])
    return value.detach().float() if _narrow(value) else value
