"""A tiny decoder that has learned something, so that inversions and variations mean something."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

STEPS, PICTURES = 150, 256


def pictures(split: str, count: int, size: int = 16) -> Tensor:
    """(count, 3, size, size) in [-1, 1]."""
    from datamodules.rendered.scenes import make_pair, render

    pixels = [torch.from_numpy(render(make_pair(split, k).scene, size)).permute(2, 0, 1) for k in range(count)]
    return torch.stack(pixels).float() / 127.5 - 1


@pytest.fixture(scope="session")
def trained_run(stored_run: Path, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stored_run` with a decoder trained for some seconds; not to be written to."""
    from modules.clip.frozen import FrozenCLIP
    from modules.models.configs import Objective

    run = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(stored_run, run)
    images, objective = pictures("train", PICTURES), Objective(parameterization="x0", weighting="min_snr_plus_one")
    with torch.no_grad():
        z_i = FrozenCLIP(str(run / "clip" / "export")).encode_image(images)
    network, generator = tiny.make_network("decoder"), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=5e-3)
    for _ in range(STEPS):
        rows = torch.randint(PICTURES, (16,), generator=generator)
        t, noise, x_t = objective.draw(images[rows], generator)
        keep = torch.rand(16, generator=generator) > 0.1
        condition = network.condition(torch.zeros(16, 20, dtype=torch.int64), z_i[rows], keep_embedding=keep)
        loss = objective.loss(network(x_t, t, condition), images[rows], noise, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tiny.write_stage(run / "decoder", "decoder", network)
    return run


@pytest.fixture(scope="session")
def system(trained_run: Path) -> Any:
    from modules.pipeline import UnCLIP

    return UnCLIP.from_run(trained_run)


@pytest.fixture(scope="session")
def test_pictures() -> Tensor:
    """(6, 3, 16, 16) in [-1, 1]."""
    return pictures("val", 6)


@pytest.fixture(scope="session")
def inverted(system: Any, test_pictures: Tensor) -> Any:
    from modules.manipulations import Walk, invert

    return invert(system, test_pictures, None, Walk())
