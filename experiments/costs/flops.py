"""Parameters and FLOPs of a model, counted: what it evaluates in training and in sampling, it says itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from modules.errors import InputError
from modules.models.base import Model
from modules.models.exports import build
from modules.networks.convolutions.layer import winograd_convolutions

T = TypeVar("T")


@dataclass(frozen=True)
class Count:
    """What a stage's network amounts to.

    Attributes:
        parts: parameters by part of the network.
        forward: FLOPs of one evaluation for one sample, as training does it, conditioning included.
        image: FLOPs of all evaluations that one image takes in sampling: guidance, candidates and fast paths included.
    """

    parts: dict[str, int]
    forward: float
    image: float

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())


def model_of(kind: type[Model], config: dict[str, Any]) -> Model:
    """The model of a stage's YAML on the meta device: shapes without numbers.

    Args:
        kind: class of the model.
        config: the YAML, defaults included.

    Raises:
        InputError: its settings are not understood.
    """
    try:
        with torch.device("meta"):
            model = build(kind, config["model"]["init_args"], resolve=_named)
    except Exception as error:
        raise InputError(f"model.init_args: {' '.join(str(error).split())}") from error
    model.network.eval()
    return model


def _named(path: str, base: type[T]) -> type[T]:
    """The class that a person's own YAML names, which is imported: nothing here is from an export."""
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{path} is no {base.__name__}")
    return found


def count(model: Model) -> Count:
    """Parameters and FLOPs of a model on the meta device."""
    parts: dict[str, int] = {}
    for name, parameter in model.network.named_parameters():
        parts[_part(name)] = parts.get(_part(name), 0) + parameter.numel()
    with torch.device("meta"):
        batch = model.example_batch(1)
        forward = flops_of(lambda: model.output(batch))
        image = sum(times * flops_of(run) for times, run in model.sampling_parts())
    return Count(parts, forward, image)


def _part(name: str) -> str:
    """Which part of a network a parameter belongs to."""
    if name.endswith(".tokens.weight"):
        return "vocabulary"
    first = name.split(".")[0]
    if first in ("encoder", "decoder"):  # The dVAE's.
        return first
    if first.startswith("clip_to"):
        return "projections of z_i"
    if first == "tokens" and ".transformer." in name:  # The AR prior's text encoder.
        return "text"
    return first if first in ("unet", "text", "transformer") else "other"


def flops_of(run: Callable[[], object]) -> float:
    """FLOPs of a call, its convolutions counted as direct ones on every device."""
    with winograd_convolutions(enabled=False), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
