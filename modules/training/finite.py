"""Finds losses and gradients that are not finite, without waiting for the device at every step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.errors import InputError


class Seen(NamedTuple):
    """A scalar of a training step.

    Attributes:
        what: in words, such as "the loss".
        step: of the optimiser.
        value: () the scalar, on the device.
        index: (B,) the batch's samples.
    """

    what: str
    step: int
    value: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls


class FiniteGuard:
    """Keeps scalars on their device, and reads them together when `every` of them have come.

    A bad step is found some steps late. The weights are spoilt by then, but training stops before they are saved.

    Args:
        every: how many scalars are kept before they are read.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._seen: list[Seen] = []

    def see(self, seen: Seen) -> None:
        """Keep a scalar; read all that are kept when there are enough.

        Raises:
            InputError: one of them is not finite.
        """
        self._seen.append(seen)
        if len(self._seen) >= self.every:
            self.check()

    def check(self) -> None:
        """Read all kept scalars. Only this waits for the device.

        Raises:
            InputError: one of them is not finite. Names the first one, its step and its samples.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        finite = torch.stack([one.value.detach().float() for one in seen]).isfinite().tolist()
        for good, one in zip(finite, seen, strict=True):
            if not good:
                raise InputError(
                    f"{one.what} is {one.value.item()} at step {one.step} (samples {one.index.tolist()}), found at "
                    f"step {seen[-1].step}: training stops here, and the steps since then are not saved; go on from "
                    "the last checkpoint with a lower learning rate, or look at these samples"
                )
