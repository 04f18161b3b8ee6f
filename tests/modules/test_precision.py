"""bf16-mixed trains every stage on a CPU: weights stay float32, and the numbers stay near float32's."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from modules.networks.blocks import timestep_embedding
from modules.objective import Objective, SamplerConfig
from modules.stage import TrainingConfig


def stage_of(tiny, name):
    path, _, _, arguments = tiny.STAGES[name]
    made = dict(arguments)
    if "codec" in made:
        made["codec"] = tiny.named("modules.embedding_codec.EmbeddingCodec")(**made["codec"])
    for key, kind in (("objective", Objective), ("sampler", SamplerConfig)):
        if key in made:
            made[key] = kind(**made[key])
    network = tiny.make_network(name)
    return tiny.named(path)(network, **made, training=TrainingConfig(ema_decay=0.5, warmup_steps=1))


def data_of(name, shapes):
    return shapes(image_size=32) if name == "upsampler" else shapes()


@pytest.mark.parametrize("name", ["linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler"])
def test_every_stage_trains_in_bf16(tiny, shapes, tmp_path, name):
    losses = {}
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
        assert losses[precision].dtype == torch.float32
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in stage.network.parameters())
        assert any(not torch.equal(p, old) for p, old in zip(stage.network.parameters(), before, strict=True))
    assert_close(losses["bf16-mixed"], losses["32-true"], atol=0.02, rtol=0.03)
    assert name == "linear_prior" or not torch.equal(losses["bf16-mixed"], losses["32-true"])


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
