"""The paper's objective, epsilon with learned sigma, under Table 3's optimiser: the YAML says it, and it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.training.lightning_cli import CLI

FILES = [Path("experiments/quickstart/decoder.yaml"), Path("experiments/learned_sigma/decoder.yaml")]
SMALL = """
model:
  init_args:
    network:
      init_args:
        unet: {image_size: 16, channels: 8, channel_multipliers: [1, 2], head_channels: 8, attention_resolutions: [4]}
        embedding_dim: 16
        context_length: 20
        text_width: 8
        text_depth: 1
    training: {warmup_steps: 5}
"""


@pytest.fixture
def stage(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "small.yaml").write_text(SMALL)
    words = [word for file in [*FILES, tmp_path / "small.yaml"] for word in ("--config", str(file))]
    return CLI("fit", [*words, f"--trainer.default_root_dir={tmp_path / 'run'}"]).model


def test_the_yaml_has_the_papers_objective_and_optimiser(stage):
    assert (stage.objective.parameterization, stage.objective.weighting) == ("epsilon", "none")
    assert stage.objective.learned_sigma and stage.network.learned_sigma
    assert (stage.sampler.name, stage.sampler.variance) == ("ddpm", "learned")
    made = stage.optimizer(stage.network.parameters())
    assert type(made) is torch.optim.AdamW
    settings = {"lr": 1.2e-4, "betas": (0.9, 0.999), "eps": 1e-10, "weight_decay": 0.0, "fused": True}
    assert {name: made.defaults[name] for name in settings} == settings


@pytest.mark.parametrize("beta2", [0.999, 0.91])
def test_it_trains_and_the_variance_with_it(tiny, stage, shapes, tmp_path, beta2):
    """60 steps: every loss is finite, and both terms fall."""
    make = stage.optimizer
    stage.optimizer = lambda params: make(params, lr=2e-3, betas=(0.9, beta2))  # the paper's rate is for long runs
    batch = shapes().dataset("train").__getitems__(range(32))

    def terms():
        with torch.no_grad():
            found = [stage.loss_terms(batch, torch.Generator().manual_seed(k)) for k in range(8)]
        return {name: torch.cat([part[name] for part in found]).mean().item() for name in ("L_simple", "L_vlb")}

    before, losses, whole = terms(), [], stage.training_loss
    stage.training_loss = lambda batch, generator: losses.append(whole(batch, generator)) or losses[-1]
    tiny.fit(stage, shapes(), 60, tmp_path / "fit")
    del stage.training_loss
    after = terms()
    assert len(losses) == 60
    assert torch.stack(losses).isfinite().all()
    assert all(p.isfinite().all() for p in stage.network.parameters())
    assert after["L_simple"] < 0.8 * before["L_simple"]
    assert after["L_vlb"] < before["L_vlb"]
