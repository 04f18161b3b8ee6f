"""Networks of shapes alone have the parameters and buffers of real ones, and torch._dynamo is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.networks.embedding_pathway import EmbeddingPathway
from modules.networks.on_meta import on_meta

ROOT = Path(__file__).parents[3]


def described(network):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", ["linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler"])
def test_names_shapes_and_dtypes_are_those_of_the_real_network(tiny, name):
    whiten = {"pathway": EmbeddingPathway(whiten=True)} if name == "decoder" else {}
    with on_meta():
        shapes = tiny.make_network(name, **whiten)
    assert all(tensor.is_meta for tensor in [*shapes.parameters(), *shapes.buffers()])
    assert described(shapes) == described(tiny.make_network(name, **whiten))


def test_what_has_numbers_is_filled_and_scaled_as_ever():
    with on_meta():
        real = torch.zeros(2, 2, device="cpu")
        nn.init.constant_(real, 2.0)
        real.mul_(3.0)
        assert torch.equal(real * 2.0, torch.full((2, 2), 12.0, device="cpu"))
        assert (torch.randn(2, 3) * 0.5).shape == torch.randn((2, 3)).shape == (2, 3) and torch.randn(2).is_meta
        assert torch.rand(2, device="cpu").max() > 0
        assert (torch.ones(3) * 2.0).is_meta and (torch.ones(3, dtype=torch.int64) * 0.5).dtype == torch.float32
        shapes, out = torch.ones(3), torch.empty(3)
        assert torch.mul(input=shapes, other=2.0).is_meta and torch.mul(shapes, 2.0, out=out) is out
    assert torch.equal(torch.zeros(1).fill_(4.0), torch.tensor([4.0]))


def test_an_embedding_is_made_without_the_compiler():
    program = (
        "import sys\nimport torch\nfrom torch import nn\nfrom modules.networks.on_meta import on_meta\n"
        "with on_meta():\n    nn.Embedding(3, 4), nn.Linear(2, 2), nn.MultiheadAttention(4, 2), nn.LayerNorm(3)\n"
        "    nn.Parameter(0.1 * torch.randn(3, 4))\n"
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env)
