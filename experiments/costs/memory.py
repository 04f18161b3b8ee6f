"""The memory that a training step takes on one device, counted without the memory: tensors are shapes only.

Weights, gradients, optimiser and average follow from the network's parameters. Activations do not: one training step is
run on torch's fake tensors, which have shapes and no numbers, while every storage that is made and freed is counted.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.training.kept_bytes import FLOAT, HALF
from modules.diffusion.schedules import NoiseSchedule
from modules.models.configs import Objective
from modules.training.sharding import blocks
from modules.training.stage import Stage


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for; `explained` says what each is."""

    weights: float
    gradients: float
    optimiser: float
    average: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        """All of them at once."""
        return sum(vars(self).values())


EXPLAINED = {
    "weights": "float32, 4 bytes a parameter; FSDP2 shares them out",
    "gradients": "float32, 4 bytes a parameter; FSDP2 shares them out",
    "optimiser": "what the config's optimiser keeps for a parameter, found by a step of it; FSDP2 shares it out",
    "average": "the exponential moving average, float32, 4 bytes a parameter; FSDP2 shares it out",
    "gathered": (
        "DDP: the buckets that gradients are summed in, 4 bytes a parameter (DDPStrategy's gradient_as_bucket_view "
        "saves them). FSDP2: the two largest neighbouring blocks, one at work and one on its way, the largest one's "
        "gradient twice, and what is in no block with its gradient"
    ),
    "activations": (
        "the most that is alive at once in a step besides the above: what the backward pass needs and what it makes; "
        "in mixed precision also autocast's 16-bit copies of weights, which FSDP2 does without in bf16-mixed"
    ),
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are made under it and still alive; `peak` is the most at any time.

    The weights of a network, which are there before, and their gradients do not count.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, int] = {}
        self._known = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
        self._hooks = [p.register_post_accumulate_grad_hook(self._gradient) for p in network.parameters()]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def __exit__(self, *exception: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*exception)

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        self._alive[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self._alive.pop(key, 0)

    def _gradient(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        self._gone(parameter.grad.untyped_storage()._cdata)
        self._known.add(parameter.grad.untyped_storage()._cdata)


def step_loss(stage: Stage, batch: int) -> Callable[[], Tensor]:
    """A function that makes a batch of nothing and evaluates a stage's network on it as training does, to a scalar.

    Raises:
        InputError: a stage that gives no example of a batch.
    """
    return lambda: stage.example_loss(stage.example_batch(batch))


@contextmanager
def shapes_only() -> Iterator[None]:
    """New tensors have shapes and no numbers; only schedules of noise, whose numbers are checked, have theirs."""
    real = Objective.__dict__["noise_schedule"]

    def noise_schedule(objective: Objective) -> NoiseSchedule:
        with unset_fake_temporarily():
            schedule: NoiseSchedule = real.__get__(objective, Objective)
        return schedule

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(Objective, "noise_schedule", property(noise_schedule)),
    ):
        yield


def activations(make: Callable[[], Stage], batch: int, *, bf16: bool = False, sharded: bool = False) -> int:
    """The most bytes alive at once in a training step, besides weights and their gradients.

    Args:
        make: makes the stage; called where tensors are fake.
        batch: samples on one device.
        bf16: under autocast to bfloat16, as an accelerator does it.
        sharded: as FSDP2 has the weights of blocks then, in bfloat16.
    """
    with shapes_only():
        stage = make()
        stage.network.train()
        if bf16 and sharded:
            for block in blocks(stage.network):
                _round(block)
        return measured(stage, batch, bf16=bf16)


def _round(block: nn.Module) -> None:
    """Make a block's weights bfloat16; `to` does not do it for fake ones."""
    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().bfloat16()))


def measured(stage: Stage, batch: int, *, bf16: bool = False) -> int:
    """As `activations`, of a stage that is there, on tensors of its kind."""
    loss = step_loss(stage, batch)
    # An accelerator's norms, in the backward pass too: checkpointed blocks compute again there.
    with LiveBytes(stage.network) as live, norms_in_float32() if bf16 else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
    return live.peak


@contextmanager
def norms_in_float32() -> Iterator[None]:
    """Group and layer norms compute in float32 whatever comes in: an accelerator's autocast, not a CPU's."""

    def widened(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, count: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
            affine = (None if w is None else w.float() for w in (weight, bias))
            return norm(x.float(), count, *affine, eps)

        return run

    with ExitStack() as stack:
        for name in ("group_norm", "layer_norm"):
            stack.enter_context(mock.patch.object(F, name, widened(getattr(F, name))))
        yield


def memory(
    network: nn.Module, per_parameter: float, active: int, *, devices: int, sharded: bool, bf16: bool = False
) -> Memory:
    """What a device needs.

    Args:
        network: of any kind of tensors.
        per_parameter: see `optimiser_bytes`.
        active: see `activations`.
        devices: that train together.
        sharded: FSDP2; otherwise DDP, or one device alone.
        bf16: FSDP2 gathers blocks as bfloat16.
    """
    count = sum(p.numel() for p in network.parameters())
    share = count / devices if sharded else count
    if sharded:
        gathered = working_set([sum(p.numel() for p in b.parameters()) for b in blocks(network)], count, bf16=bf16)
    else:
        gathered = FLOAT * count if devices > 1 else 0
    return Memory(FLOAT * share, FLOAT * share, per_parameter * share, FLOAT * share, gathered, active)


def working_set(sizes: list[int], count: int, *, bf16: bool) -> int:
    """Bytes of FSDP2's whole weights and whole gradients: of blocks of `sizes`, in a network of `count` parameters."""
    each = HALF if bf16 else FLOAT
    pairs = [a + b for a, b in zip([0, *sizes], [*sizes, 0], strict=True)]
    # The whole's own weights with their gradient; two blocks; a block's gradient, and its copy that is summed.
    return 2 * FLOAT * (count - sum(sizes)) + each * max(pairs) + (each + FLOAT) * max(sizes, default=0)


def with_checkpointing(model: dict[str, Any], value: bool) -> dict[str, Any] | None:
    """A YAML's `model` with activation checkpointing on or off; None where there is no such setting."""
    changed = copy.deepcopy(model)
    network = (changed["init_args"].get("network") or {}).get("init_args", {})
    holder = network.get("unet", network)
    if "checkpointing" not in holder:
        return None
    holder["checkpointing"] = value
    return changed
