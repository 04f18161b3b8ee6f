"""How everything is timed, and the prior that several cases are about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timings import peers
from benchmarks.timings.timing import matrix_peak
from experiments.costs.flops import flops_of

PRIOR: dict[str, Any] = {"vocab_size": 1000, "context_length": 77, "width": 512, "depth": 6, "heads": 8}
STEPS = 64


@dataclass(frozen=True)
class Bench:
    """How to time.

    Attributes:
        device: where.
        pairs: repetitions of the short cases; the long ones take half of them, two at least.
        shrink: divides the batch sizes below, for a quick look.
        half: autocast to bfloat16 (for GPUs).
        compile: torch.compile ours (for GPUs).
    """

    device: torch.device
    pairs: int = 5
    shrink: int = 1
    half: bool = False
    compile: bool = False

    @property
    def few(self) -> int:
        """Pairs of a long case."""
        return max(2, self.pairs // 2)

    def batch(self, size: int) -> int:
        """A case's batch size."""
        return max(1, size // self.shrink)

    @cached_property
    def peak(self) -> float:
        """FLOPs a second of large matrix products, in the precision of both programs."""
        return matrix_peak(self.device, torch.bfloat16 if self.half else torch.float32)

    def at_peak(self, run: Callable[[], object]) -> float:
        """Seconds that the products, convolutions and attention of a call would take at the matrix peak."""
        return flops_of(run) / self.peak

    def autocast(self) -> torch.autocast:
        """The precision of both programs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def training_step(self, network: nn.Module, loss: Callable[[], Tensor], *, ours: bool) -> Callable[[], None]:
        """Loss, gradients and AdamW: ours as our stages make it, the peer's as their training scripts do."""
        options: dict[str, Any] = {"fused": True} if ours else {}
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, **options)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                value = loss()
            value.backward()
            optimizer.step()

        return step


def prior_batch(batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t, tokens, z_t and t of a batch."""
    g = torch.Generator().manual_seed(0)
    x, z_t = (F.normalize(torch.randn(batch, 512, generator=g), dim=1).to(device) for _ in range(2))
    tokens = torch.randint(1, 1000, (batch, 77), generator=g).to(device)
    return x, tokens, z_t, torch.randint(0, 1000, (batch,), generator=g).to(device)


def prior_peers(device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    """Other people's priors of the same size, those that are installed."""
    sizes = tuple(PRIOR.values())
    if peers.available("diffusers"):
        yield "diffusers", peers.DiffusersPrior(*sizes).to(device)
    if peers.available("dalle2_pytorch"):
        yield "DALLE2-pytorch", peers.Dalle2Prior(*sizes).to(device)
