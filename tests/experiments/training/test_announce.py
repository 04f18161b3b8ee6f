"""What `unclip fit` says before it trains: samples, pixels or tokens of a step, and the memory that it takes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datamodules.embeddings import EmbeddingsDataModule
from experiments.training.callbacks import Announce, SavedActivations, memory, millions, workload
from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.training.stage import TrainingConfig
from modules.upsampler import Upsampler


def trainer(world=1, accumulated=1):
    return SimpleNamespace(
        world_size=world, accumulate_grad_batches=accumulated, default_root_dir="runs/x/decoder", is_global_zero=True
    )


IMAGES = ImageTextBatch(torch.zeros(64, 3, 32, 32), [""] * 64, torch.arange(64))
ROWS = EmbeddingBatch(torch.zeros(8, 4), torch.zeros(8, 4), torch.zeros(8, 20, dtype=torch.int64), torch.arange(8))


def test_pixels_and_the_effective_batch():
    module = SimpleNamespace()
    assert workload(trainer(), module, IMAGES) == "decoder: 64 samples a step, 65.5 k pixels a step"
    assert workload(trainer(2, 4), module, IMAGES) == (
        "decoder: 64 x 2 devices x 4 accumulated = 512 samples a step, 524.3 k pixels a step"
    )
    assert workload(trainer(), SimpleNamespace(model=SimpleNamespace(crop=0.25)), IMAGES).endswith(
        "4.1 k pixels a step"
    )


def test_tokens_and_codes():
    assert workload(trainer(), SimpleNamespace(), ROWS).endswith("8 samples a step, 160 caption tokens a step")
    module = SimpleNamespace(codec=SimpleNamespace(kept=5))
    assert workload(trainer(), module, ROWS).endswith("200 caption tokens and codes a step")


def test_activations_are_what_the_backward_pass_needs():
    """A linear layer keeps its input, SiLU its own: (10, 4) and (10, 6) float32; no weight, and nothing twice."""
    network, x = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2)), torch.randn(10, 4)
    with SavedActivations(network) as saved:
        out = network(x)
    network(torch.randn(99, 4))  # not counted
    assert saved.bytes == 4 * (10 * 4 + 2 * 10 * 6)
    out.sum().backward()
    assert network[0].weight.grad is not None


def test_a_pass_that_is_over_is_let_go_of():
    """As SAM's first one: the second, of the same size, needs no more."""
    network, x = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2)), torch.randn(10, 4)
    with SavedActivations(network) as saved:
        for _ in range(2):
            torch.autograd.grad(network(x).sum(), list(network.parameters()))
    assert saved.bytes == 4 * (10 * 4 + 2 * 10 * 6)


def test_memory_is_the_sum_of_its_parts():
    module = nn.Linear(1000, 1000, bias=False)
    frozen = nn.Linear(500, 1000, bias=False).requires_grad_(False)
    both = nn.ModuleList([module, frozen])
    both.optimizer = torch.optim.AdamW
    assert memory(both, 1_000_000) == (
        "memory about 19.0 MB beside program and data: weights and their average 6.0 MB, gradients 4.0 MB, "
        "optimiser 8.0 MB, activations 1.0 MB"
    )
    assert "activations" not in memory(both, None)


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        (torch.optim.SGD, 0),
        (lambda p: torch.optim.SGD(p, momentum=0.9), 4),
        (torch.optim.AdamW, 8),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), 12),
    ],
)
def test_the_optimiser_is_the_configs(optimizer, kept):
    module = nn.Linear(1000, 1000, bias=False)
    module.optimizer = optimizer
    assert f"optimiser {kept:.1f} MB" in memory(module, None)
    module._perturbation = object()  # SAM's copy of the weights, and its gradient
    assert f"optimiser {kept + 8:.1f} MB" in memory(module, None)
    whole, *parts = [float(text) for text in re.findall(r"([\d.]+) MB", memory(module, None))]
    assert whole == pytest.approx(sum(parts)) == pytest.approx(8 + kept + 8)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"training": TrainingConfig(warmup_steps=1, compile=True)}, "what a compiled network keeps is its compiler's"),
        ({"sharded": True}, "a sharded network's are mixed with gathered weights"),
        ({}, None),
    ],
)
def test_what_is_not_counted_is_said(tiny, embeddings, tmp_path, capsys, monkeypatch, changes, why):
    """Compiling is left out here; that the config asks for it is what counts."""
    monkeypatch.setattr(torch, "compile", lambda network: network)
    stage = tiny.make_stage("linear_prior", **{k: v for k, v in changes.items() if k == "training"})
    stage.sharded = changes.get("sharded", False)
    monkeypatch.setattr(type(stage), "_total", lambda self, norms: torch.stack(list(norms)).sum())
    tiny.fit(stage, EmbeddingsDataModule(str(embeddings), 8), 1, tmp_path, callbacks=[Announce()])
    line = next(text for text in capsys.readouterr().out.splitlines() if "memory about" in text)
    assert ("activations 0.0 MB" in line) == (why is None)
    assert line.endswith("MB") if why is None else f"MB; activations not counted: {why}" in line


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_says_it_once_and_trains_as_ever(tiny, shapes, tmp_path, capsys, checkpointing):
    losses = []
    for callbacks in ([], [Announce()]):
        unet = {**tiny.STAGES["upsampler"][2]["unet"], "checkpointing": checkpointing}
        stage = Upsampler(tiny.make_network("upsampler", unet=unet), training=TrainingConfig(warmup_steps=1))
        tiny.fit(stage, shapes(image_size=32), 2, tmp_path, callbacks=callbacks)
        losses.append([p.detach().clone() for p in stage.network.parameters()])
    said = [line for line in capsys.readouterr().out.splitlines() if "memory about" in line]
    assert len(said) == 1
    assert "8 samples a step, 512 pixels a step" in said[0]  # quarter crops
    assert float(said[0].split("activations ")[1].split(" ")[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


UNITS = {
    "clip": "2.0 k pixels a step",
    "linear_prior": "160 caption tokens a step",
    "ar_prior": "208 caption tokens and codes a step",
    "diffusion_prior": "160 caption tokens a step",
    "decoder": "2.0 k pixels a step",
    "glide": "2.0 k pixels a step",
    "upsampler": "512 pixels a step",
}


@pytest.mark.parametrize("name", UNITS)
def test_every_stage_says_what_is_trained(tiny, shapes, embeddings, tmp_path, capsys, name):
    """Batches of 8: parameters, samples, pixels or tokens of a step, and memory, before the first step is done."""
    stage = tiny.make_stage(name)
    data = EmbeddingsDataModule(str(embeddings), 8) if name.endswith("prior") else shapes()
    data = shapes(image_size=32) if name == "upsampler" else data
    tiny.fit(stage, data, 2, tmp_path / name, callbacks=[Announce()])
    first, second = capsys.readouterr().out.splitlines()
    count = millions(sum(p.numel() for p in stage.network.parameters()))
    kind = type(stage).__name__
    assert first.startswith(f"{name}: {kind}, {count} parameters trained, batch 8, steps 0 to 2, on cpu, in ")
    assert second.startswith(f"{name}: 8 samples a step, {UNITS[name]}; memory about ")
    whole, *parts = [float(text) for text in re.findall(r"([\d.]+) MB", second)]
    assert len(parts) == 4
    assert whole == pytest.approx(sum(parts), abs=0.25)
    assert ("activations 0.0 MB" in second) == (name == "linear_prior")
