"""float64 where a device has it, else on the CPU; nothing else makes float64 tensors of what lies on a device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from modules.manipulations.slerp import slerp
from modules.placement.exact import exact, float64_device

ROOT = Path(__file__).parents[2]


def test_where():
    assert float64_device(torch.device("mps", 0)) == torch.device("cpu")
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert exact(torch.ones(2, dtype=torch.float16)).dtype == torch.float64


def test_a_device_without_float64_gives_the_same_blend(monkeypatch):
    """Every sum in float64 asks where to be; the result comes back to the vectors' device and dtype."""
    a, b = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = slerp(a, b, torch.tensor([0.1, 0.5, 1.0]))
    monkeypatch.setattr("modules.placement.exact.WITHOUT_FLOAT64", ("cpu",))
    found = slerp(a, b, torch.tensor([0.1, 0.5, 1.0]))
    assert torch.equal(found, expected) and found.dtype == torch.float32 and torch.equal(found[2], b[2])


@pytest.mark.parametrize("folder", ["models", "manipulations", "networks", "training", "clip"])
def test_float64_is_made_in_one_place(folder):
    """`.cpu().double()` is on the CPU already; tensors that are made, and not moved, name their device."""
    for path in (ROOT / "modules" / folder).rglob("*.py"):
        for line in path.read_text().splitlines():
            bare = re.search(r"(?<!\.cpu\(\))\.double\(\)|\.to\(torch\.float64\)", line)
            assert bare is None, f"{path.name}: {line.strip()}"
