"""Fully sharded data parallelism (FSDP2, torch's `fully_shard`): each device holds a share of every weight.

A part of the network is gathered from all devices just before it computes and dropped afterwards: here one block of a
Transformer, or one stage of a U-Net, at a time. Gradients, the optimiser's state and the average are shared out in the
same way. Lightning's ModelParallelStrategy asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modules.errors import InputError
from modules.networks import unet
from modules.networks.transformer import TransformerBlock

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Tensors = tuple[Tensor, ...] | list[Tensor]
Average = Callable[[Tensors, Tensors, Tensor | int], None]
"""AveragedModel's multi_avg_fn: averages, current weights, and how many updates came before."""

BLOCKS = (TransformerBlock, unet.Stage)
"""A module of one of these classes is gathered as a whole."""


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that are gathered one after another; the rest is gathered with the whole."""
    return [part for part in network.modules() if isinstance(part, BLOCKS)]


def shard(network: nn.Module, mesh: DeviceMesh, device: torch.device, *, bf16: bool = False) -> None:
    """Share a network's weights out over the devices of a mesh, in place; every rank must call this.

    All ranks take the weights of the first, as they do under DDP.

    Args:
        network: with the same shapes on every rank.
        mesh: a one-dimensional torch DeviceMesh.
        device: this rank's.
        bf16: blocks are gathered as bfloat16, for training under autocast: half of the traffic, and autocast makes no
            copies of its own. The shards, the average and the sums of gradients stay float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    _same_everywhere(network, device)
    policy = MixedPrecisionPolicy()
    if bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    entries = _entries(network)
    # torch's default keeps the outermost weights gathered after a forward pass. After validation, the next update of
    # the average would go to these gathered copies and be lost.
    for part in blocks(network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for name in entries:
        register_fsdp_forward_method(network, name)


def shard_stage(stage: Any) -> None:
    """Shard a Stage's network and average over the devices of its Trainer; every rank must call this.

    Raises:
        InputError: a stage that is not sharded, or settings of the strategy that it is not sharded with.
    """
    strategy, mesh = stage.trainer.strategy, stage.device_mesh
    if not stage.shardable:
        raise InputError(f"trainer.strategy: {type(stage).__name__} is not sharded; train it with ddp")
    if mesh["tensor_parallel"].size() > 1 or getattr(strategy, "_save_distributed_checkpoint", False):
        raise InputError(
            "trainer.strategy: ModelParallelStrategy shards a stage over all devices and saves one file; set "
            f"init_args: {{data_parallel_size: {stage.trainer.world_size}, tensor_parallel_size: 1, "
            "save_distributed_checkpoint: false}"
        )
    bf16 = stage.trainer.precision == "bf16-mixed" and gathers_bf16(strategy.root_device)
    for network in (stage.network, stage.averaged):
        shard(network, mesh["data_parallel"], strategy.root_device, bf16=bf16)


def gathers_bf16(device: torch.device) -> bool:
    """Whether blocks may be gathered as bfloat16. On a CPU, norms refuse bfloat16 weights with a float32 input."""
    return device.type != "cpu"


def _entries(network: nn.Module) -> list[str]:
    """The methods besides `forward` that stages and samplers call: they need the weights gathered too."""
    own = vars(type(network)).items()
    return [name for name, item in own if isinstance(item, FunctionType) and name[0] != "_" and name != "forward"]


def _same_everywhere(network: nn.Module, device: torch.device) -> None:
    """Give every rank the first one's weights."""
    for tensor in (*network.parameters(), *network.buffers()):
        sent = tensor.detach().to(device, copy=True)
        torch.distributed.broadcast(sent, src=0)
        tensor.detach().copy_(sent)


def local(tensor: Tensor) -> Tensor:
    """This device's share of a tensor: the tensor itself where it is not sharded. Shares its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def on_shares(average: Average) -> Average:
    """A function of lists of tensors, as AveragedModel's multi_avg_fn, that works on this device's shares."""

    def run(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        average([local(x) for x in averaged], [local(x) for x in current], count)

    return run


def gathered(state: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU, gathered from all shares. Every rank must call this; one without `keep` gets {}."""
    whole: dict[str, Tensor] = {}
    for name, tensor in state.items():
        full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if keep:
            whole[name] = full.cpu()
    return whole
