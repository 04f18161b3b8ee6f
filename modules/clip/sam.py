"""Sharpness-aware minimisation (SAM, 2010.01412), which the paper's CLIP is trained with (unCLIP, appendix C)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Perturbation:
    """Moves weights to where the loss around them is largest, and back to the same bits.

    Args:
        parameters: what is moved; those without gradient stay.
        rho: how far, in the Euclidean norm of all of them together (SAM eq. 2; the paper's is 0.1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rho: float) -> None:
        if rho <= 0:
            raise ValueError(f"rho must be positive, got {rho}")
        self.parameters, self.rho = [p for p in parameters if p.requires_grad], rho
        self._before: list[Tensor] | None = None

    def climb(self, loss: Callable[[], Tensor]) -> None:
        """Move along the gradient of `loss`, computed here and now.

        The gradient is this replica's own: it is not averaged over replicas, and no hook of a wrapper sees it.

        Raises:
            RuntimeError: if the weights have not been put back since the last time.
        """
        if self._before is not None:
            raise RuntimeError("the weights are perturbed already")
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), self.parameters, allow_unused=True)
        found = [(p, g.float()) for p, g in zip(self.parameters, gradients, strict=True) if g is not None]
        norm = torch.stack([g.norm() for _, g in found]).norm()
        self._before = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for parameter, gradient in found:
                parameter.add_((gradient * (self.rho / norm.clamp(min=1e-12))).to(parameter.dtype))

    def restore(self) -> None:
        """Put the weights back, if they are perturbed."""
        if self._before is None:
            return
        with torch.no_grad():
            for parameter, before in zip(self.parameters, self._before, strict=True):
                parameter.copy_(before)
        self._before = None


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and leave their running ones as they are."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
