"""The exponential moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modules.training.sharding import local, on_shares

PREFIX = "average.module."
"""How the averaged network's tensors begin in a checkpoint's `state_dict`."""


class ExponentialAverage(AveragedModel):
    """torch's AveragedModel, with the same numbers and the same state, but without asking the device at every step.

    torch's compares `n_averaged`, a tensor on the device, with 0 before each update; here its value is also kept as a
    number, and read from the tensor only once after a checkpoint has been loaded.

    Args:
        network: what is averaged; the first update copies it.
        decay: weight of the average so far in each further update.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self._take = on_shares(get_ema_multi_avg_fn(decay))
        self._updates: int | None = 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the network's weights into the average; buffers are copied."""
        if self._updates is None:
            self._updates = int(self.n_averaged)
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        if self._updates == 0:
            for average, weight in zip(averages, weights, strict=True):
                local(average).copy_(local(weight))
        else:
            self._take(averages, weights, self.n_averaged)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += 1
        self._updates += 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._updates = None
