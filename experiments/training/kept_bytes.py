"""Bytes that a training keeps from step to step: weights, averages, gradients, optimiser state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modules.training.muon import NamedParameters

FLOAT, HALF = 4, 2  # bytes


def optimiser_bytes(optimizer: Callable[[Any], torch.optim.Optimizer]) -> float:
    """Bytes that an optimiser keeps for a parameter, from one step of it on a matrix."""
    probe = nn.Parameter(torch.zeros(64, 64))
    probe.grad = torch.ones_like(probe)
    made = optimizer(NamedParameters([("weight", probe)]))
    made.step()
    kept = [x for x in made.state[probe].values() if isinstance(x, Tensor) and x.ndim]
    return sum(x.numel() * x.element_size() for x in kept) / probe.numel()


def kept_bytes(stage: Any) -> float:
    """Bytes that a stage keeps for a trained parameter besides weight, gradient and average: the optimiser's and SAM's.

    SAM keeps a copy of the weights beside the perturbed ones, and one more gradient.
    """
    return optimiser_bytes(stage.optimizer) + (2 * FLOAT if getattr(stage, "_perturbation", None) else 0)
