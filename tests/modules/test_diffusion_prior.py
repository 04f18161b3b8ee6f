"""The diffusion prior: learns pairs by heart, drops the text as told, and is exported with its score's statistics."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.gaussian import q_sample
from modules.diffusion.schedules import respace
from modules.diffusion_prior import DiffusionPrior
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.networks.priors.prior_conditioning import PriorConditioning
from modules.training.stage import TrainingConfig

TRAINING = TrainingConfig(warmup_steps=0, ema_decay=0.98, decay_share=0.5)
SOLVER = SamplerConfig(name="dpm_solver_pp", steps=10, threshold=None)
ANALYTIC = SamplerConfig(name="analytic_dpm", steps=4, spacing="adm", threshold=None)


@pytest.fixture
def make(tiny):
    def make(**changes) -> DiffusionPrior:
        optimizer = lambda params: torch.optim.AdamW(params, lr=5e-3)  # noqa: E731
        settings = {"sampler": SOLVER, "optimizer": optimizer, "training": TRAINING, **changes}
        return DiffusionPrior(tiny.make_network("diffusion_prior", width=32, heads=4), **settings)

    return make


@pytest.fixture
def rows(shapes, tiny):
    """8 pairs whose texts and images have nothing to do with each other: only by heart can one tell the other."""
    g = torch.Generator().manual_seed(1)
    batch = shapes().dataset("train").__getitems__(range(8)).embeddings
    z_i, z_t = (F.normalize(torch.randn(8, tiny.DIM, generator=g), dim=1) for _ in range(2))
    return batch._replace(z_i=z_i, z_t=z_t)


class Spy(nn.Module):
    """In place of the network: predicts zero, and remembers what it was asked."""

    embedding_dim, tokens = 16, SimpleNamespace(feature_dim=None)
    conditioning, standardisation = PriorConditioning(), None

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def forward(self, x_t, t, tokens, z_t, keep=None, mask=None):
        assert mask is None
        self.asked.append((x_t, t, tokens, z_t, keep))
        return torch.zeros_like(x_t)


def test_it_learns_a_batch_by_heart(make, rows, shapes, tiny, tmp_path):
    stage = make(drop_text=0.1)
    tiny.fit(stage, tiny.repeat(shapes(), rows, 400), 400, tmp_path)
    # A network that knows nothing has the mean square of the scaled embeddings, 17.2^2 / 1024 = 0.289.
    losses = [stage.validation_loss(rows, stage.generator(1, k)).item() for k in range(20)]
    assert sum(losses) / 20 < 0.06
    generators = [torch.Generator().manual_seed(k) for k in range(8)]
    drawn = replace(stage.averaged_model, candidates=1).sample(rows.captions, generators)
    assert_close(drawn.norm(dim=1), torch.ones(8))
    assert (drawn * rows.z_i).sum(dim=1).min() > 0.9
    assert stage.judge(rows)["cosine_to_z_i"].mean() > 0.9


def test_the_loss_is_the_mean_squared_error_of_the_scaled_embedding(make, rows):
    stage = make(drop_text=0.0)
    stage.network = Spy()
    found = stage.training_loss(rows, stage.generator(0, 7))
    scale = 17.2 * math.sqrt(16 / 1024)
    assert found.item() == pytest.approx(scale**2 / 16)  # z_i is of unit norm
    ((x_t, t, tokens, z_t, keep),) = stage.network.asked
    assert torch.equal(tokens, rows.tokens) and torch.equal(z_t, rows.z_t) and keep.all()
    again, noise, same = stage.objective.draw(rows.z_i * scale, stage.generator(0, 7))
    assert torch.equal(t, again) and torch.equal(x_t, same)
    assert_close(x_t, q_sample(stage.objective.noise_schedule, rows.z_i * scale, t, noise))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_text_is_dropped_as_often_as_the_config_says(make, rows, rate):
    stage = make(drop_text=rate)
    stage.network = Spy()
    for step in range(600):
        stage.training_loss(rows, stage.generator(0, step))
    keep = torch.cat([asked[-1] for asked in stage.network.asked]).double()
    assert 1 - keep.mean() == pytest.approx(rate, abs=3.5 * math.sqrt(rate * (1 - rate) / 4800))
    # Whether a row is dropped has nothing to do with its timestep.
    t = torch.cat([asked[1] for asked in stage.network.asked]).double()
    assert torch.corrcoef(torch.stack([keep, t]))[0, 1].abs() < 3.5 / math.sqrt(4800)


CONFIG = {"model": {"class_path": "modules.diffusion_prior.DiffusionPrior", "init_args": {}}}


def statistics(folder):
    state = load_file(folder / "export" / "model.safetensors")
    prefix = "statistics."
    return ScoreStatistics.from_tensors({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def test_the_statistics_of_the_average_are_exported(make, shapes, tiny, tmp_path):
    """Of a network that predicts x0 = 0: epsilon is x_t / sigma, whose mean square is 1 + SNR E[x0^2]."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    stage = make(sampler=ANALYTIC, statistics_samples=64, optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    torch.nn.init.zeros_(stage.averaged.out.weight)
    torch.nn.init.zeros_(stage.averaged.out.bias)
    stage.network.load_state_dict(stage.averaged.state_dict())
    tiny.fit(stage, shapes(), 2, tmp_path)
    found = statistics(tmp_path)
    schedule = respace(stage.objective.noise_schedule, 4, "adm")
    assert found.timesteps.tolist() == schedule.timesteps.tolist()
    assert found.count == 64
    data = shapes().dataset("train").embeddings[range(64)].z_i.double() * stage.model.scale
    assert found.data_variance == pytest.approx(data.var(dim=0, correction=0).mean().item(), rel=1e-4)
    assert_close(found.mean_squared_epsilon, 1 + schedule.snr * data.square().mean(), rtol=0.02, atol=0)


def test_dropout_is_off_in_the_statistics(make, shapes, tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    found = []
    for dropout in (0.0, 0.9):
        network = tiny.randomise(tiny.make_network("diffusion_prior", dropout=dropout)).train()
        optimizer = lambda params: torch.optim.SGD(params, lr=0.0)  # noqa: E731
        stage = DiffusionPrior(network, sampler=ANALYTIC, optimizer=optimizer, training=TRAINING)
        tiny.fit(stage, shapes(), 1, tmp_path)
        found.append(statistics(tmp_path).mean_squared_epsilon)
    assert_close(*found)


def test_a_run_resumed_at_its_end_exports_the_statistics_too(make, shapes, tiny, tmp_path):
    """Killed after the last checkpoint and before the export: the next call has no step left to train."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    trainer = tiny.fit(make(sampler=ANALYTIC), shapes(), 2, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    first = statistics(tmp_path)
    (tmp_path / "export" / "model.safetensors").unlink()
    again = tiny.fit(make(sampler=ANALYTIC), shapes(), 2, tmp_path, resumed=tmp_path / "last.ckpt")
    assert again.global_step == 2
    assert_close(statistics(tmp_path).mean_squared_epsilon, first.mean_squared_epsilon)


def test_other_samplers_need_no_statistics(make, shapes, tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    stage = make()
    tiny.fit(stage, shapes(), 1, tmp_path)
    state = load_file(tmp_path / "export" / "model.safetensors")
    assert set(state) == set(stage.averaged.state_dict())


def test_the_papers_objective_is_the_default(tiny):
    stage = DiffusionPrior(tiny.make_network("diffusion_prior"))
    assert stage.objective == Objective(schedule="cosine", num_steps=1000, parameterization="x0")
    assert (stage.objective.weighting, stage.objective.learned_sigma) == ("none", False)
    assert (stage.sampler.name, stage.sampler.steps, stage.sampler.threshold) == ("analytic_dpm", 64, None)
    assert stage.model.drop_text == 0.1


def test_without_text_it_is_sampled_without_text(make, rows):
    stage = make(drop_text=1.0, candidates=1)
    model = stage.averaged_model
    generators = lambda: [torch.Generator().manual_seed(k) for k in range(8)]  # noqa: E731
    drawn = model.sample(rows.captions, generators())
    assert_close(
        model.sample(rows.captions._replace(z_t=rows.z_t.flip(0), tokens=rows.tokens.flip(0)), generators()), drawn
    )
    with_text = replace(model, drop_text=0.1)
    assert (with_text.sample(rows.captions, generators()) - drawn).abs().max() > 1e-4
    with pytest.raises(
        InputError, match=r"model.init_args.candidates is 2 .* with drop_text 1 the prior reads no text"
    ):
        make(drop_text=1.0)
