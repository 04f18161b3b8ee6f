"""Muon: momentum whose update is orthogonalised, for the matrices of a network (Jordan et al. 2024; 2502.16982).

The matrices between a network's first and last layers are trained by Muon, everything else (biases, norms, embeddings,
first and last layers, projections of the timestep and of conditions) by AdamW. `torch.optim.Muon` takes matrices only
and one at a time; this one takes convolutions too, flattened to (out, in x height x width), and treats those of one
shape together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that Newton-Schulz repeats, p(x) = a x + b x^3 + c x^5: five times brings singular values near 1."""

AROUND = ("first.", "last.", "time.", "text_to_", "clip_to_", "clip_features.", "embedding", "positional")
"""Parts of the names of matrices that AdamW trains: those at the network's ends, and of conditions."""


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """U V^T of the singular value decompositions U S V^T of (K, M, N) matrices, nearly: singular values of 0.7 to 1.2.

    Newton-Schulz on the smaller Gram matrix: for M <= N it computes Q with Q X for the whole iteration, as each step
    multiplies X from the left by a polynomial of X X^T.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = x @ x.mT
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    whole: Tensor | None = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * eye
        whole = factor if whole is None else factor @ whole
        if step < steps - 1:
            gram = factor @ gram @ factor  # Polynomials of one symmetric matrix: they commute.
    x = x if whole is None else whole @ x
    return x.mT if tall else x


class NamedParameters(list[Tensor]):
    """A list of parameters that knows their names. Other optimisers take it as the list that it is.

    Args:
        pairs: (name, parameter), as `named_parameters` gives them.
    """

    def __init__(self, pairs: Iterable[tuple[str, Tensor]]) -> None:
        given = list(pairs)
        super().__init__(parameter for _, parameter in given)
        self.names = [name for name, _ in given]


def gathered(tensor: Tensor) -> Tensor:
    """The whole tensor, if each device holds a share of it (FSDP2); every rank must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_as(tensor: Tensor, like: Tensor) -> Tensor:
    """This device's share of a whole tensor, cut as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


class Muon(Optimizer):
    """Muon for a network's hidden matrices, AdamW for its other parameters.

    Where each device holds a share of every weight, every rank gathers the momentum and orthogonalises all of it.

    Args:
        params: NamedParameters, or (name, parameter) pairs as `named_parameters` gives them.
        lr: for both. Muon's update is scaled by 0.2 sqrt(max(M, N)), to the size of AdamW's (2502.16982, eq. 4).
        momentum: of Muon, Nesterov's.
        weight_decay: of the matrices that Muon trains, decoupled.
        betas, eps: of AdamW.
        steps: of Newton-Schulz.
        smallest: a matrix whose smaller side is below it is trained by AdamW.
        around: parts of names; matrices whose name holds one are trained by AdamW.

    Raises:
        ValueError: parameters without names, a setting that is out of range, or no matrix at all.
    """

    def __init__(
        self,
        params: NamedParameters | Iterable[tuple[str, Tensor]],
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        steps: int = 5,
        smallest: int = 16,
        around: Sequence[str] = AROUND,
    ) -> None:
        pairs = list(zip(params.names, params, strict=True)) if isinstance(params, NamedParameters) else list(params)
        if not all(isinstance(pair, tuple) for pair in pairs):
            raise ValueError("Muon takes (name, parameter) pairs: named_parameters()")
        if not (lr >= 0 and 0 <= momentum < 1 and weight_decay >= 0 and steps >= 1):
            raise ValueError(f"Muon: lr {lr}, momentum {momentum}, weight_decay {weight_decay} or steps {steps}")

        def is_hidden(name: str, parameter: Tensor) -> bool:
            if parameter.ndim < 2 or any(part in name for part in around):
                return False
            return min(len(parameter), parameter[0].numel()) >= smallest

        hidden = [pair for pair in pairs if is_hidden(*pair)]
        others = [pair for pair in pairs if not is_hidden(*pair)]
        if not hidden:
            raise ValueError("Muon: the network has no hidden matrix; take AdamW")
        defaults: dict[str, Any] = {"lr": lr, "betas": tuple(betas), "eps": eps, "momentum": momentum, "steps": steps}
        groups = [{"params": hidden, "weight_decay": weight_decay, "muon": True}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0, "muon": False})
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group)
            else:
                self._adamw(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        together: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                together[len(parameter), parameter.numel() // len(parameter)].append(parameter)
        for (rows, columns), parameters in together.items():
            whole = [gathered(self._momentum(p, group)).flatten(1) for p in parameters]
            update = orthogonalised(torch.stack(whole), group["steps"])
            scale = 0.2 * math.sqrt(max(rows, columns))
            for parameter, change in zip(parameters, update, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(shared_as(change.reshape(parameter.shape), parameter), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(buffer, group["momentum"])

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
