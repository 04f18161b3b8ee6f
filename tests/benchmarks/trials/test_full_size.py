"""The trial of Karlo's full size, with narrow networks: what it writes is read, and one picture is drawn from it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.trials.full_size.__main__ import draw, write_run
from benchmarks.trials.full_size.writing import write_random


def test_a_file_written_tensor_by_tensor_is_a_safetensors_file(tmp_path):
    with torch.device("meta"):
        shapes = {
            "layer.weight": torch.empty(300, 400),
            "layer.bias": torch.empty(300),
            "norm.weight": torch.empty(7),
            "count": torch.empty(3, dtype=torch.int64),
            "scalar": torch.empty(()),
        }
    assert write_random(tmp_path / "x.safetensors", shapes) == 120_000 + 300 + 7 + 3 + 1
    found = load_file(tmp_path / "x.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == {n: tuple(t.shape) for n, t in shapes.items()}
    assert found["layer.weight"].dtype == torch.bfloat16 and found["count"].dtype == torch.int64
    assert float(found["layer.weight"].float().std()) == pytest.approx(400**-0.5, rel=0.02)
    assert bool((found["norm.weight"] == 1).all()) and bool((found["layer.bias"] == 0).all())


def test_a_small_run_is_drawn_from(tmp_path):
    counts = write_run(tmp_path / "run", small=True)
    assert list(counts) == ["clip", "diffusion_prior", "decoder", "upsampler"]
    drawn = draw(tmp_path / "run", steps=1)
    assert drawn["picture"] == [1, 3, 256, 256] and set(drawn["peak_MB"]) == {"imports", *counts}
