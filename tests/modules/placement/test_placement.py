"""Stages in half precision, and one at a time: what is held, and that it draws the same pictures."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules import trained_run
from modules.errors import InputError
from modules.models.exports import load_model
from modules.pipeline import UnCLIP
from modules.placement.precision import compute_in_bfloat16, narrowed
from modules.placement.settings import Placement

CAPTIONS = ["a red circle", "a blue square"]


def test_one_stage_at_a_time_draws_the_same_pictures(stored_run):
    together, alone = UnCLIP.from_run(stored_run), UnCLIP.from_run(stored_run, offload=True)
    assert torch.equal(together.generate(CAPTIONS, seed=3), alone.generate(CAPTIONS, seed=3))
    assert list(alone._stored) == ["upsampler"] and alone._clip is None and len(together._stored) == 3
    assert alone.stage("decoder").fingerprint == together.stage("decoder").fingerprint


def test_a_stage_that_leaves_is_freed(stored_run):
    system = UnCLIP.from_run(stored_run, precision="bf16", offload=True)
    gc.disable()  # A circle of references would keep the weights until the collector comes.
    try:
        weight = weakref.ref(system.stage("decoder").model.network.unet.first.weight)
        network = weakref.ref(system.stage("decoder").model.network)
        system.decoder().network.condition(torch.zeros(1, 20, dtype=torch.int64), None)
        _ = system.stage("diffusion_prior")
        assert weight() is None and network() is None
    finally:
        gc.enable()


def test_a_stage_and_the_clip_are_not_in_memory_together(stored_run, monkeypatch):
    """Nor while the stage is checked against the CLIP, when it is read for the first time."""
    networks, beside = [], []
    load, make = trained_run.load_model, trained_run.FrozenCLIP

    def loading(*given, **named):
        stored = load(*given, **named)
        networks.append(weakref.ref(stored.model.network))
        return stored

    def making(folder):
        beside.append([ref for ref in networks if ref() is not None])
        return make(folder)

    monkeypatch.setattr(trained_run, "load_model", loading)
    monkeypatch.setattr(trained_run, "FrozenCLIP", making)
    UnCLIP.from_run(stored_run, offload=True).generate(CAPTIONS[:1])
    assert beside and not any(beside) and len(networks) == 3


def test_a_model_that_was_put_in_place_stays(stored_run):
    system = UnCLIP.from_run(stored_run, offload=True)
    system.replace_model("decoder", system.decoder())
    kept = system.stage("decoder").model
    _ = system.clip, system.stage("diffusion_prior")
    assert system.stage("decoder").model is kept


@pytest.mark.parametrize("name", ["ar_prior", "decoder", "diffusion_prior", "linear_prior", "upsampler"])
def test_matrices_are_halved_and_vectors_and_statistics_are_not(stored_run, name):
    stored = load_model(stored_run / name, half=True).model
    kinds = {key: (value.dtype, value.ndim > 1) for key, value in stored.network.named_parameters()}
    assert {kind for kind, _ in kinds.values()} <= {torch.bfloat16, torch.float32}
    assert all((kind == torch.bfloat16) == matrix for kind, matrix in kinds.values())
    assert all(b.dtype != torch.bfloat16 for b in stored.network.buffers())
    assert all(t.dtype != torch.bfloat16 for t in stored.tensors().values())


@pytest.mark.parametrize("condition", ["diffusion_prior", "ar_prior", "linear_prior", "glide"])
def test_half_precision_draws_nearly_the_same(stored_run, condition):
    # Of bfloat16's 8 bits: the AR prior's codes may flip, so it is compared by its picture's range alone.
    settings = {} if condition == "glide" else {condition: {}}
    whole, half = UnCLIP.from_run(stored_run, **settings), UnCLIP.from_run(stored_run, precision="bf16", **settings)
    a, b = (system.generate(CAPTIONS, condition, seed=3) for system in (whole, half))
    assert b.dtype == torch.float32 and torch.isfinite(b).all() and not torch.equal(a, b)
    assert condition == "ar_prior" or (a - b).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["decoder", "diffusion_prior", "upsampler"])
def test_on_a_cpu_half_precision_is_float32_with_rounded_matrices(stored_run, name):
    plain, half = (load_model(stored_run / name, half=flag).model for flag in (False, True))
    with torch.no_grad():
        for parameter in plain.network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.bfloat16().float())
    compute_in_bfloat16(half.network, torch.device("cpu"))
    assert type(half.network).__name__ == type(plain.network).__name__
    batch = plain.example_batch(2)
    got, wanted = half.output(batch), plain.output(batch)
    assert got.dtype == torch.float32 and torch.equal(got, wanted)


def test_a_dvae_stays_in_float32(stored_run):
    whole, half = UnCLIP.from_run(stored_run), UnCLIP.from_run(stored_run, precision="bf16")
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = [
        system.generate(CAPTIONS[:1], "dvae_reconstruction", images=images, upsample=False) for system in (whole, half)
    ]
    assert torch.equal(*drawn)
    assert torch.isfinite(half.generate(CAPTIONS[:1], "dalle", upsample=False)).all()
    assert half.token_prior("token_transformer").network.image_out.weight.dtype == torch.bfloat16


def test_files_in_bfloat16_are_read_as_what_they_hold(stored_run, tmp_path):
    import shutil

    folder = shutil.copytree(stored_run / "decoder", tmp_path / "decoder")
    file = folder / "export" / "model.safetensors"
    rounded = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(rounded, file)
    whole, half = (dict(load_model(folder, half=flag).model.network.state_dict()) for flag in (False, True))
    assert all(
        torch.equal(whole[name], tensor.float()) and whole[name].dtype == torch.float32
        for name, tensor in rounded.items()
    )
    assert all(torch.equal(half[name].float(), tensor.float()) for name, tensor in rounded.items())


def test_narrowed_leaves_whole_numbers():
    network = torch.nn.Linear(3, 2)
    network.register_buffer("count", torch.ones(2, 2, dtype=torch.int64))
    kinds = {name: tensor.dtype for name, tensor in narrowed(network, dict(network.state_dict())).items()}
    assert kinds == {"weight": torch.bfloat16, "bias": torch.float32, "count": torch.int64}


def test_a_precision_that_there_is_not():
    with pytest.raises(InputError, match="precision must be 32 or bf16, found 'fp8'"):
        Placement("fp8")  # type: ignore[arg-type]
