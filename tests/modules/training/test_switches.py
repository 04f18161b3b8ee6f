"""Switches of a YAML that change how a stage is computed, and not what: compile, checkpointing, fused, foreach."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from modules.networks import blocks
from modules.training.stage import TrainingConfig, adamw

COMPILER = any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def batch_of(name, shapes, codec=None):
    """8 rows, as the Trainer hands them to the stage."""
    data = shapes(image_size=32) if name == "upsampler" else shapes()
    if codec is not None:
        rows = data.dataset("train").__getitems__(range(64)).embeddings
        codec.fit(rows.z_i, rows.z_t)
    return data.dataset("train").__getitems__(range(8))


def gradients(stage, batch):
    """Loss and gradients of a training step."""
    loss = stage.training_loss(batch, stage.generator(0, 0))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in stage.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param("linear_prior", "inductor", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler")),
        ("diffusion_prior", "aot_eager"),  # captured and differentiated by the compiler; its kernels take minutes here
        ("decoder", "aot_eager"),
    ],
)
def test_compiled_is_eager(tiny, shapes, monkeypatch, name, backend):
    """Loss and gradients; and the average, which samples, is left as it is."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    found = []
    for compiled in (False, True):
        network = tiny.randomise(tiny.make_network(name)).train()
        stage = tiny.make_stage(name, network, training=TrainingConfig(warmup_steps=1, compile=compiled))
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        found.append(gradients(stage, batch_of(name, shapes)))
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == compiled
        assert type(stage.averaged) is type(network)
    (loss, eager), (other, compiled_gradients) = found
    assert_close(other, loss, atol=1e-5, rtol=1e-5)
    assert eager.keys() == compiled_gradients.keys()
    for key, gradient in eager.items():
        assert_close(compiled_gradients[key], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ar_prior", "diffusion_prior", "decoder", "glide", "upsampler"])
def test_checkpointing_recomputes_and_changes_no_gradient(tiny, shapes, monkeypatch, name):
    """As the stage's YAML switches it on: more evaluations of the blocks, the same loss and gradients."""
    found, counts = [], []
    for flag in (False, True):
        unet = tiny.STAGES[name][2].get("unet")
        changes = {"checkpointing": flag} if unet is None else {"unet": {**unet, "checkpointing": flag}}
        network = tiny.randomise(tiny.make_network(name, **changes)).train()
        stage = tiny.make_stage(name, network)
        batch, calls = batch_of(name, shapes, getattr(stage, "codec", None)), []
        for module in network.modules():
            if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
                module.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        found.append(gradients(stage, batch))
        counts.append(len(calls))
    (loss, plain), (other, recomputed) = found
    assert counts[1] > 1.5 * counts[0]
    assert torch.equal(loss, other)
    assert plain.keys() == recomputed.keys()
    for key, gradient in plain.items():
        assert_close(recomputed[key], gradient, atol=1e-6, rtol=1e-5)


def test_the_optimizer_is_fused_and_the_average_updated_in_one_call(tiny, monkeypatch):
    (group,) = adamw([torch.nn.Parameter(torch.zeros(2))]).param_groups
    assert group["fused"] is True
    stage, calls = tiny.make_stage("decoder"), []
    whole = torch._foreach_lerp_
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda a, *rest, **k: calls.append(len(a)) or whole(a, *rest, **k))
    for _ in range(2):  # the first is a copy
        stage.average.update_parameters(stage.network)
    assert calls == [len(list(stage.network.parameters()))]


def test_in_place_activations_only_where_no_gradient_is_wanted():
    x = torch.randn(3, requires_grad=True) * 1
    assert blocks.silu_(x) is not x
    with torch.no_grad():
        y = x.clone()
        assert blocks.silu_(y) is y


@pytest.mark.parametrize("name", ["decoder", "glide", "upsampler"])
@pytest.mark.parametrize("switch", [False, True])
def test_channels_last_reaches_every_convolution_of_a_training_step(tiny, shapes, name, switch):
    training = TrainingConfig(warmup_steps=1, channels_last=switch)
    stage, seen = tiny.make_stage(name, tiny.randomise(tiny.make_network(name)), training=training), []
    for module in stage.network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = batch_of(name, shapes)
    stage.training_loss(batch._replace(images=batch.images.contiguous()), stage.generator(0, 0))
    last = [x.is_contiguous(memory_format=torch.channels_last) for x in seen]
    assert len(last) > 3 and (all(last) if switch else not last[0])
