"""`unclip validate --bound.samples N`: the variational bound of every diffusion stage, term by term."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import lightning
import pytest
import torch
import yaml

from experiments.cli import main
from experiments.training.bound_report import BoundReport, noise_of
from modules.diffusion.analytic import ScoreStatistics, analytic_variance
from modules.diffusion.bound import variational_bound
from modules.diffusion.schedules import cosine, respace
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig

STAGES = ("diffusion_prior", "decoder", "glide", "upsampler")


def make(tiny, name, sampler=None, learned=False):
    path, _, _, settings = tiny.STAGES[name]
    network = tiny.make_network(name, **({"learned_sigma": True} if learned else {}))
    objective = Objective(**{**settings["objective"], "learned_sigma": learned})
    return tiny.named(path)(tiny.randomise(network), objective, sampler or SamplerConfig(name="ddim", steps=2))


def report(stage, data, folder, **settings):
    """What the callback logs, and what it writes."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=str(folder), callbacks=[BoundReport(**settings)], **off
    )
    (logged,) = trainer.validate(stage, datamodule=data, verbose=False)
    return logged, json.loads((folder / "bound.json").read_text())


def by_hand(stage, data, samples, schedule, variance, seed=0):
    """One sample at a time."""
    found = []
    for index in range(samples):
        denoiser, x0 = stage.averaged_model.denoiser(data.dataset("val").__getitems__([index]))
        settings = {"generators": [noise_of(seed, index)], "variance": variance, "decoder": stage.model.likelihood}
        found.append(variational_bound(denoiser, schedule, x0, **settings))
    return type(found[0])(*(torch.cat(parts).double() for parts in zip(*found, strict=True)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STAGES)
def test_every_term_of_every_diffusion_stage(tiny, shapes, tmp_path, name):
    """10 of 12 samples, in batches of 8 and 4: the means over them, each as if it were alone."""
    stage, data = make(tiny, name), shapes()
    logged, written = report(stage, data, tmp_path, samples=10, steps=4)
    schedule = respace(cosine(1000), 4)
    expected = by_hand(stage, data, 10, schedule, "fixed_small")
    assert written["samples"] == 10
    assert written["variance"] == "fixed_small"
    assert written["timesteps"] == schedule.timesteps.tolist() == [0, 333, 666, 999]
    assert written["log_snr"] == pytest.approx(schedule.log_snr.tolist())
    for key in ("terms", "x0_mse", "epsilon_mse"):
        assert written[key] == pytest.approx(getattr(expected, key).mean(dim=0).tolist(), rel=1e-4)
    assert written["total"] == pytest.approx(expected.total.mean().item(), rel=1e-4)
    assert written["standard_error"] == pytest.approx((expected.total.std() / math.sqrt(10)).item(), rel=1e-2)
    assert written["prior"] == pytest.approx(expected.prior.mean().item(), rel=1e-4)
    assert written["likelihood"] == pytest.approx(expected.terms[:, 0].mean().item(), rel=1e-4)
    assert written["total"] == pytest.approx(written["prior"] + sum(written["terms"]), rel=1e-6)
    assert logged["val/bound"] == pytest.approx(written["total"], rel=1e-5)
    assert logged["val/bound_prior"] == pytest.approx(written["prior"], rel=1e-5)
    assert logged["val/bound_likelihood"] == pytest.approx(written["likelihood"], rel=1e-5)
    for key in ("x0_mse", "epsilon_mse"):
        assert logged[f"val/{key}"] == pytest.approx(sum(written[key]) / 4, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_what_the_variance_may_be(tiny, shapes, tmp_path):
    data = shapes()
    learned = make(tiny, "decoder", learned=True)
    schedule = respace(cosine(1000), 3)
    for variance in ("auto", "learned", "fixed_large"):
        used = "learned" if variance == "auto" else variance
        _, written = report(learned, data, tmp_path, samples=2, steps=3, variance=variance)
        assert written["variance"] == used
        assert written["total"] == pytest.approx(
            by_hand(learned, data, 2, schedule, used).total.mean().item(), rel=1e-4
        )
    # The analytic one goes with the sampler's trajectory, and is the default where there are statistics.
    analytic = make(tiny, "diffusion_prior", SamplerConfig(name="analytic_dpm", steps=4, spacing="adm", threshold=None))
    values = torch.tensor([0.99, 0.8, 0.9, 0.999], dtype=torch.float64)
    statistics = ScoreStatistics(analytic.trajectory.timesteps, values, 0.3, 5)
    analytic._model = replace(analytic._model, statistics=statistics)
    own = analytic_variance(analytic.trajectory, analytic.statistics).variance
    expected = by_hand(analytic, data, 2, analytic.trajectory, own).total.mean().item()
    for variance in ("auto", "analytic"):
        _, written = report(analytic, data, tmp_path, samples=2, variance=variance)
        assert (written["variance"], written["timesteps"]) == ("analytic", [0, 333, 666, 999])
        assert written["total"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_batches_make_no_difference_and_the_seed_does(tiny, shapes, tmp_path):
    stage = make(tiny, "diffusion_prior")
    first, small, other = (
        report(stage, shapes(batch_size=size), tmp_path, samples=6, steps=2, seed=seed)[1]
        for size, seed in ((8, 0), (3, 0), (8, 1))
    )
    assert small["total"] == pytest.approx(first["total"], rel=1e-5)
    assert other["total"] != pytest.approx(first["total"], rel=1e-4)
    assert other["seed"] == 1


@pytest.mark.filterwarnings("ignore")
def test_without_steps_it_is_the_bound_of_the_whole_process(tiny, shapes, tmp_path):
    stage = make(tiny, "diffusion_prior")
    stage._model = replace(stage._model, objective=Objective(parameterization="x0", num_steps=30))
    _, written = report(stage, shapes(), tmp_path, samples=1)
    assert written["timesteps"] == list(range(30))


@pytest.mark.filterwarnings("ignore")
def test_zero_terminal_snr_is_written_as_null(tiny, shapes, tmp_path):
    stage = make(tiny, "diffusion_prior")
    stage._model = replace(stage._model, objective=Objective(parameterization="x0", zero_terminal_snr=True))
    _, written = report(stage, shapes(), tmp_path, samples=1, steps=3)
    assert written["log_snr"][-1] is None
    assert written["prior"] == 0
    assert math.isfinite(written["total"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("linear_prior", {"samples": 1}, "LinearPrior has no variational bound"),
        ("decoder", {"samples": 1, "variance": "learned"}, "trained without learned_sigma"),
        ("decoder", {"samples": 1, "variance": "analytic"}, "no statistics of the score"),
        ("decoder", {"samples": 1, "steps": 2000}, "bound.steps must be 1 to 1000 for this stage, not 2000"),
        ("decoder", {"samples": -1}, "bound.samples must be 0 or more, not -1"),
        ("decoder", {"samples": 1, "steps": 3, "variance": "analytic"}, "leave it out"),
    ],
)
def test_what_cannot_be_bounded_is_said(tiny, shapes, tmp_path, stage, settings, message):
    if stage == "linear_prior":
        made = tiny.named(tiny.STAGES[stage][0])(tiny.make_network(stage))
    else:
        made = make(tiny, stage)
    with pytest.raises(InputError, match=message):
        report(made, shapes(), tmp_path, **settings)


def config(tiny, embeddings, folder):
    path, network, arguments, settings = tiny.STAGES["diffusion_prior"]
    model = {"network": {"class_path": network, "init_args": arguments}, **settings}
    data = {"folder": str(embeddings), "batch_size": 8}
    content = {
        "trainer": {"default_root_dir": str(folder), "max_steps": 2, "accelerator": "cpu"},
        "model": {"class_path": path, "init_args": model},
        "data": {"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": data},
    }
    file = folder / "prior.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


@pytest.mark.filterwarnings("ignore")
def test_validate_has_the_switch_and_training_does_not_change(tiny, embeddings, tmp_path, capsys):
    """fit, then validate: the bound of the trained average, with the statistics of the checkpoint."""
    file = config(tiny, embeddings, tmp_path)
    assert main(["fit", "--config", file]) == 0
    assert "bound" not in yaml.safe_load((tmp_path / "config.yaml").read_text())
    trained = str(tmp_path / "config.yaml")
    assert main(["validate", "--config", trained, "--ckpt_path", "last"]) == 0
    assert "val/bound" not in capsys.readouterr().out
    assert not (tmp_path / "bound.json").exists()
    assert main(["validate", "--config", trained, "--ckpt_path", "last", "--bound.samples", "5"]) == 0
    assert "val/bound" in capsys.readouterr().out
    written = json.loads((tmp_path / "bound.json").read_text())
    assert written["checkpoint"].endswith("last.ckpt")
    assert (written["samples"], written["variance"], len(written["terms"])) == (5, "analytic", 4)
    # The same from a file of its own.
    (tmp_path / "bound.yaml").write_text("bound: {samples: 5}")
    again = ["validate", "--config", trained, "--config", str(tmp_path / "bound.yaml"), "--ckpt_path", "last"]
    assert main(again) == 0
    assert json.loads((tmp_path / "bound.json").read_text()) == written
