"""Networks of shapes without numbers, to be given a file's weights or to be counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS: frozenset[Callable[..., Any]] = frozenset(
    [
        *(getattr(nn.init, name) for name in ("normal_", "uniform_", "constant_", "kaiming_uniform_")),
        *(getattr(Tensor, name) for name in ("normal_", "uniform_", "fill_", "zero_", "triu_")),
    ]
)
DRAWS: frozenset[Callable[..., Any]] = frozenset([torch.rand, torch.randn])
SCALES: frozenset[Callable[..., Any]] = frozenset([torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__])


class _Unfilled(TorchFunctionMode):
    """What would fill a tensor that has no numbers does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        if func in SCALES and len(args) == 2 and not kwargs and _only_scaled(*args):
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
        if func in DRAWS and not kwargs.keys() - {"dtype"}:
            return torch.empty(*args, device="meta", **kwargs)
        return func(*args, **kwargs)


def _only_scaled(tensor: Any, factor: Any) -> bool:
    real = isinstance(tensor, Tensor) and tensor.is_meta and tensor.is_floating_point()
    return real and isinstance(factor, (int, float))


@contextmanager
def on_meta() -> Iterator[None]:
    """New tensors are on the meta device: they have a shape and a dtype, and no numbers.

    Initialisation is skipped. On that device torch would import torch.compile's package for it, which takes longer than
    torch itself.
    """
    with torch.device("meta"), _Unfilled():
        yield
