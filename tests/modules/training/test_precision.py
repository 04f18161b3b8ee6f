"""bf16-mixed trains every stage on a CPU: weights stay float32, and the numbers stay near float32's."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from modules.models.configs import Objective, SamplerConfig
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.models.upsampler import UpsamplerModel
from modules.networks.blocks import attention, timestep_embedding

STAGES = ["clip", "linear_prior", "ar_prior", "diffusion_prior", "decoder", "learned sigma", "glide", "upsampler"]


def stage_of(tiny, name):
    if name != "learned sigma":
        return tiny.make_stage(name)
    sampler = SamplerConfig("ddpm", 2, "adm", variance="learned")
    network = tiny.make_network("decoder", learned_sigma=True)
    return tiny.make_stage("decoder", network, objective=Objective(learned_sigma=True), sampler=sampler)


def data_of(name, shapes):
    return shapes(image_size=32) if name == "upsampler" else shapes()


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_in_bf16(tiny, shapes, tmp_path, name):
    losses, weights = {}, {}
    for precision in ("32-true", "bf16-mixed"):
        stage, seen = stage_of(tiny, name), []
        whole = stage.training_loss

        def watch(batch, generator, whole=whole, seen=seen):
            seen.append(whole(batch, generator))
            return seen[-1]

        stage.training_loss = watch
        before = [p.detach().clone() for p in stage.network.parameters()]
        tiny.fit(stage, data_of(name, shapes), 2, tmp_path / precision, precision=precision, val_check_interval=2)
        losses[precision] = torch.stack([loss.detach() for loss in seen])
        weights[precision] = torch.cat([p.detach().flatten() for p in stage.network.parameters()])
        assert losses[precision].dtype == torch.float32
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in stage.network.parameters())
        assert all(p.dtype == torch.float32 for p in stage.averaged.parameters())
        assert any(not torch.equal(p, old) for p, old in zip(stage.network.parameters(), before, strict=True))
    assert_close(losses["bf16-mixed"], losses["32-true"], atol=0.02, rtol=0.03)
    # Not the losses: a U-Net's last layer starts at zero, and what two steps make of it may round to the same loss.
    assert name == "linear_prior" or not torch.equal(weights["bf16-mixed"], weights["32-true"])


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["clip", "ar_prior", "diffusion_prior", "decoder", "upsampler"])
def test_norms_compute_in_float32(tiny, shapes, tmp_path, name):
    """They take off again the 4 that is added to all they see; statistics in bfloat16 would miss by tenths."""
    stage, errors = stage_of(tiny, name), []

    def compare(norm, arguments, out):
        (x,) = arguments
        assert norm.weight.dtype == torch.float32
        exact = type(norm).forward(copy.deepcopy(norm).double(), x.detach().double())
        errors.append((out.detach() - exact).abs().max().item() / exact.abs().max().item())

    for norm in stage.network.modules():
        if isinstance(norm, NORMS):
            norm.register_forward_pre_hook(lambda _, arguments: (arguments[0] + 4,))
            norm.register_forward_hook(compare)
    tiny.fit(stage, data_of(name, shapes), 1, tmp_path, precision="bf16-mixed")
    assert errors
    assert max(errors) < 2**-7  # the rounding of what comes out


def test_the_softmax_sums_in_float32():
    """1,500 equal scores: a sum in bfloat16 stops at 256."""
    q, k = torch.zeros(1, 2, 3, 8), torch.randn(1, 2, 1500, 8)
    out = attention(q.bfloat16(), k.bfloat16(), torch.ones_like(k).bfloat16())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, torch.ones_like(out))


class Rounded(nn.Module):
    """In place of a CLIP: features as autocast leaves them, on which pairs differ by less than a step of the logits."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        pair = F.normalize(torch.randn(1, 16, generator=g) + 0.05 * torch.randn(16, 16, generator=g), dim=1)
        self.image, self.text = pair[:8].bfloat16(), pair[8:].bfloat16()

    def forward(self, images, tokens):
        return {"image_features": self.image, "text_features": self.text, "logit_scale": torch.tensor(100.0)}


def test_the_contrastive_loss_is_computed_in_float32(tiny, shapes, monkeypatch):
    stage = tiny.make_stage("clip")
    monkeypatch.setattr(type(stage), "trainer", SimpleNamespace(world_size=1))
    monkeypatch.setattr(type(stage), "global_rank", 0)
    stage.tokenize, model = (lambda captions: torch.zeros(len(captions), 4, dtype=torch.int64)), Rounded()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = stage._loss(model, shapes().dataset("train").__getitems__(range(8)))
    image, text = (F.normalize(x.double(), dim=1) for x in (model.image, model.text))
    logits = 100 * image @ text.T
    expected = -(logits.log_softmax(dim=1).diag() + logits.log_softmax(dim=0).diag()).mean() / 2
    assert loss.dtype == torch.float32
    assert_close(loss.double(), expected, atol=1e-4, rtol=0)


def test_the_cross_entropy_of_codes_is_computed_in_float32(tiny, shapes):
    stage, data = tiny.make_stage("ar_prior"), shapes()
    rows = data.dataset("train").__getitems__(range(64)).embeddings
    stage.codec.fit(rows.z_i, rows.z_t)
    logits = (torch.randn(64, 6, 8, generator=torch.Generator().manual_seed(0)) * 9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        stage.average.module.forward = lambda *_: logits
        loss = stage.validation_loss(rows, torch.Generator())
    log_p = (
        logits.double().log_softmax(dim=2).gather(2, stage.codec.encode(rows.z_i)[..., None])
    )  # codes: the exact ones
    assert_close(loss.double(), -log_p.mean(), atol=1e-6, rtol=1e-6)


def test_the_codec_is_exact_under_autocast(tiny, shapes):
    rows = shapes().dataset("train").__getitems__(range(64)).embeddings
    codec = EmbeddingCodec(tiny.DIM, **{**tiny.CODES, "num_buckets": 32})
    codec.fit(rows.z_i, rows.z_t)
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            codes = codec.encode(rows.z_i)
            found.append(
                (codes, codec.encode_dot(rows.z_i, rows.z_t), codec.decode(codes), codec.reconstruct(rows.z_i, 3))
            )
    assert all(torch.equal(exact, cast) for exact, cast in zip(*found, strict=True))


def test_sampling_under_autocast_walks_in_float32(tiny):
    """The network computes in bfloat16; what is walked along stays in float32."""
    network, steps = tiny.randomise(tiny.make_network("upsampler", residual=True)), []
    low, sampler = torch.rand(2, 3, 8, 8) * 2 - 1, SamplerConfig("ddim", 3)
    with torch.autocast("cpu", torch.bfloat16):
        objective, own = Objective(parameterization="x0"), [torch.Generator().manual_seed(k) for k in range(2)]
        drawn = UpsamplerModel(network, objective, sampler).sample(low, own, on_step=steps.append)
    assert {step.x.dtype for step in steps} == {drawn.dtype} == {torch.float32}


def test_samples_in_bf16_are_near_those_in_float32(tiny):
    """Text once, then cached steps: the cache holds float32, attention runs in bfloat16."""
    network = tiny.randomise(tiny.make_network("diffusion_prior"))
    g = torch.Generator().manual_seed(0)
    tokens, z_t, x = torch.randint(0, 30, (3, 20), generator=g), torch.randn(3, 16, generator=g) / 4, torch.randn(3, 16)
    t = torch.tensor([0, 500, 999])
    with torch.no_grad():
        expected = network(x, t, tokens, z_t)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(network.step(x, t, network.encode(tokens, z_t)).float(), expected, atol=0.15, rtol=0.05)


def test_schedules_and_timesteps_stay_exact_under_autocast():
    objective = Objective()
    x0 = torch.randn(4, 3, 8, 8)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            t, noise, x_t = objective.draw(x0, torch.Generator().manual_seed(0))
            values = (x_t, objective.loss(noise * 0.9, x0, noise, t), timestep_embedding(t, 16))
        assert all(value.dtype == torch.float32 for value in values)
        first = values if not autocast else first  # noqa: F821
    assert all(torch.equal(a, b) for a, b in zip(first, values, strict=True))
