"""CUDA graphs: elsewhere a call is a call; on a GPU a replay is what the call gives, for other inputs too."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from modules.networks.cuda_graphs import Graphed


def test_elsewhere_the_function_is_called_as_it_is():
    calls = []
    graphed = Graphed(lambda x, y: calls.append(1) or x * y)
    for k in range(3):
        assert torch.equal(graphed(torch.full((2,), float(k)), torch.ones(2)), torch.full((2,), float(k)))
    assert len(calls) == 3 and graphed.graph is None


def test_a_replay_has_its_own_inputs_and_outputs(monkeypatch):
    """With a graph that computes anew from the kept inputs into the kept output, as CUDA's does."""
    graphed, calls = Graphed(lambda x, y: calls.append(1) or x * y), []

    class Graph:
        def replay(self):
            graphed.output.copy_(graphed.inputs[0] * graphed.inputs[1])

    def capture(inputs):
        graphed.inputs = [x.clone() for x in inputs]
        graphed.output = graphed.call(*graphed.inputs)
        return Graph()

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

    monkeypatch.setattr(graphed, "_capture", capture)
    x, y = torch.tensor([1.0, 2.0]).as_subclass(Elsewhere), torch.tensor([3.0, 4.0])
    first, second = graphed(x, y), graphed(2 * x.as_subclass(torch.Tensor).as_subclass(Elsewhere), y)
    assert len(calls) == 1
    assert first.tolist() == [3.0, 8.0] and second.tolist() == [6.0, 16.0] and x.tolist() == [1.0, 2.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_replay_is_the_call():
    layer = torch.nn.Linear(8, 8).cuda()
    graphed = Graphed(lambda x: layer(x).tanh())
    for k in range(4):
        x = torch.randn(3, 8, device="cuda", generator=torch.Generator("cuda").manual_seed(k))
        with torch.no_grad():
            assert_close(graphed(x), layer(x).tanh())
