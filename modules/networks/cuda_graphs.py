"""CUDA graphs for samplers, whose small steps wait for their kernels to be launched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # Calls before the capture, in which libraries choose kernels and take memory.


class Graphed:
    """A function of tensors that is captured at its first call on a CUDA device, and replayed from then on.

    The shapes must stay those of the first call. Everything else that the function reads (weights, a text's keys and
    values) must stay at the same address. On other devices the function is called as it is.

    Args:
        call: tensors of fixed shapes -> one tensor; nothing in it may wait for the device.
    """

    def __init__(self, call: Callable[..., Tensor]) -> None:
        self.call = call
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """What `call` gives, in memory of its own."""
        if inputs[0].device.type != "cuda":
            return self.call(*inputs)
        if self.graph is None:
            self.graph = self._capture(inputs)
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        self.graph.replay()
        assert self.output is not None
        return self.output.clone()

    def _capture(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self.inputs = [x.clone() for x in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # Weights that autocast has converted would be kept from one capture for another.
        half = torch.is_autocast_enabled("cuda")
        uncached = torch.autocast("cuda", torch.get_autocast_dtype("cuda"), enabled=half, cache_enabled=False)
        with torch.cuda.stream(stream), uncached:
            for _ in range(WARM_UP):
                self.call(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), uncached:
            self.output = self.call(*self.inputs)
        return graph
