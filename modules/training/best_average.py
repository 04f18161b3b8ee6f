"""The average of the weights that did best in validation, kept for the end of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from modules.errors import InputError
from modules.training.average import PREFIX

KEY = "best_average"
"""Where a checkpoint has it."""

Mode = Literal["min", "max"]


class BestAverage:
    """Keeps a copy of the averaged network whenever a measure of validation is better than ever before.

    The copy is on the CPU, and in every checkpoint.

    Args:
        measure: as it is logged, such as "val/loss".
        mode: whether the least or the greatest value is the best.

    Attributes:
        value: the best so far; None before the first validation.
        step: optimiser steps that had been done then.
        seen: optimiser steps that had been done at the last validation.
        placed: whether the network has the best weights now.
    """

    def __init__(self, measure: str, mode: Mode = "min") -> None:
        self.measure, self.mode = measure, mode
        self.value: float | None = None
        self.step = self.seen = 0
        self.placed = False
        self._weights: dict[str, Tensor] = {}
        self._running: dict[str, Tensor] = {}

    def see(self, measures: Mapping[str, Any], step: int, network: nn.Module) -> None:
        """Compare after a validation; of equal values the first is kept, and values that are not finite never are.

        Args:
            measures: what was logged, by name.
            step: optimiser steps done.
            network: the average now.

        Raises:
            InputError: the measure was not logged; the line says what was.
        """
        if self.measure not in measures:
            logged = ", ".join(sorted(name for name in measures if name.startswith("val/"))) or "nothing"
            raise InputError(
                f"model.init_args.training.keep_best is {self.measure!r}, which validation does not log; it logs "
                f"{logged}"
            )
        value, self.seen = float(measures[self.measure]), step
        better = self.value is None or (value < self.value if self.mode == "min" else value > self.value)
        if math.isfinite(value) and better:
            self.value, self.step = value, step
            self._weights = copied(network)

    def put_into(self, network: nn.Module) -> None:
        """Give the network the best weights, if there are any; what it held is kept."""
        if self._weights and not self.placed:
            self._running, self.placed = copied(network), True
            network.load_state_dict(self._weights)

    def take_out_of(self, network: nn.Module) -> None:
        """Give the network back what it held before `put_into`."""
        if self.placed:
            network.load_state_dict(self._running)
            self._running, self.placed = {}, False

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the best average into a checkpoint, whose `state_dict` keeps the average after the last step."""
        if self.value is None:
            return
        checkpoint[KEY] = {
            **{name: getattr(self, name) for name in ("measure", "mode", "value", "step", "seen")},
            "weights": self._weights,
        }
        checkpoint["state_dict"] |= {PREFIX + name: tensor for name, tensor in self._running.items()}

    @staticmethod
    def tensors_in(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The best average of a checkpoint, named as the last one in its `state_dict`; {} if it has none."""
        held = checkpoint.get(KEY)
        weights = held.get("weights") if isinstance(held, Mapping) else None
        return {
            PREFIX + str(name): tensor
            for name, tensor in (weights if isinstance(weights, Mapping) else {}).items()
            if isinstance(tensor, Tensor)
        }

    def load(self, checkpoint: dict[str, Any], goes_on: bool) -> None:
        """Take the best average from a checkpoint that has one by the same measure.

        Args:
            checkpoint: as `save` left it.
            goes_on: whether training goes on; otherwise the best average takes the place of the last in `state_dict`.
        """
        found = checkpoint.get(KEY)
        if found is None or (found["measure"], found["mode"]) != (self.measure, self.mode):
            return
        self.value, self.step, self.seen = found["value"], found["step"], found["seen"]
        self._weights = found["weights"]
        if not goes_on:
            checkpoint["state_dict"] |= self.tensors_in(checkpoint)


def copied(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors on the CPU, which further training does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
