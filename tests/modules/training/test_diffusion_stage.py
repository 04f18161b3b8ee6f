"""What the diffusion stages share: the score's statistics, from training to sampling, and the bound of a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from experiments.training.checkpoints import AtomicCheckpointIO, Checkpoints, load_checkpoint
from modules.batches import Captions
from modules.diffusion import samplers
from modules.diffusion.analytic import ScoreStatistics, estimate_statistics
from modules.diffusion.schedules import respace
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.decoder import DecoderModel
from modules.models.diffusion_model import DiffusionModel, Evaluation
from modules.models.exports import load_model
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.upsampler import UpsamplerModel
from modules.pipeline import UnCLIP
from modules.training.best_average import BestAverage
from modules.training.diffusion_stage import CHECKPOINT_KEY
from modules.training.stage import TrainingConfig

ANALYTIC = SamplerConfig(name="analytic_dpm", steps=3, spacing="adm")
STAGES = ("diffusion_prior", "decoder", "glide", "upsampler")
COUNT = 20


def make(tiny, name, sampler=ANALYTIC, dropout=0.0, **changes):
    path, _, arguments, settings = tiny.STAGES[name]
    if dropout:
        changes["unet"] = {**arguments["unet"], "dropout": dropout}
    network = tiny.randomise(tiny.make_network(name, **changes)).train()
    objective = Objective(**settings["objective"])
    training = TrainingConfig(warmup_steps=0, ema_decay=0.5)
    optimizer = lambda params: torch.optim.SGD(params, lr=1e-3)  # noqa: E731
    return tiny.named(path)(
        network, objective, sampler, statistics_samples=COUNT, optimizer=optimizer, training=training
    )


def train(tiny, stage, shapes, folder, steps=2):
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": "x", "init_args": {}}}))
    options = {"enable_checkpointing": True, "callbacks": [Checkpoints()], "plugins": [AtomicCheckpointIO()]}
    tiny.fit(stage, shapes(), steps, folder, **options)
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def assert_same_statistics(found, expected):
    assert found.count == expected.count
    assert found.timesteps.tolist() == expected.timesteps.tolist()
    assert torch.equal(found.mean_squared_epsilon, expected.mean_squared_epsilon)
    assert found.data_variance == expected.data_variance


@pytest.mark.parametrize("name", ["diffusion_prior", "decoder", "upsampler"])
def test_statistics_go_with_the_checkpoint_and_the_export(tiny, shapes, tmp_path, name):
    """Of the average, without dropout, from data spread over the training set, with their count."""
    stage = make(tiny, name, dropout=0.0 if name == "diffusion_prior" else 0.5)
    content = train(tiny, stage, shapes, tmp_path)
    stored = ScoreStatistics.from_tensors(content[CHECKPOINT_KEY])
    assert stored.count == COUNT
    stage.average.eval()
    data = shapes().dataset("train")
    positions = [k * 64 // COUNT for k in range(COUNT)]
    assert positions[-1] > 55
    batches = [stage.averaged_model.denoiser(data.__getitems__(positions[k : k + 8])) for k in (0, 8, 16)]
    schedule = respace(stage.objective.noise_schedule, 3, "adm")
    assert_same_statistics(stored, estimate_statistics(batches, schedule, stage.generator(2)))
    tensors = load_file(tmp_path / "export" / "model.safetensors")
    exported = {k.removeprefix("statistics."): v for k, v in tensors.items() if k.startswith("statistics.")}
    assert_same_statistics(ScoreStatistics.from_tensors(exported), stored)
    # And back from the checkpoint.
    other = make(tiny, name)
    other.on_load_checkpoint(content)
    assert_same_statistics(other.statistics, stored)


def test_statistics_are_of_the_average_that_is_exported(tiny, shapes, tmp_path):
    """With `keep_best`, that of an earlier validation."""
    stage = make(tiny, "diffusion_prior")
    stage.best = BestAverage("val/loss", "max")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": "x", "init_args": {}}}))
    learning = {"val_check_interval": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    tiny.fit(stage, shapes(), 3, tmp_path, **learning)
    assert stage.best.step == 1  # The loss falls, and the greatest is asked for.
    stored = stage.statistics
    stage.average.eval()
    data = shapes().dataset("train")
    positions = [k * 64 // COUNT for k in range(COUNT)]
    batches = [stage.averaged_model.denoiser(data.__getitems__(positions[k : k + 8])) for k in (0, 8, 16)]
    schedule = respace(stage.objective.noise_schedule, 3, "adm")
    assert_same_statistics(stored, estimate_statistics(batches, schedule, stage.generator(2)))


def test_a_checkpoint_written_at_the_last_step_already_gets_the_statistics(tiny, shapes, tmp_path):
    stage = make(tiny, "diffusion_prior")
    checkpoints = Checkpoints(every_n_train_steps=1)
    options = {"enable_checkpointing": True, "callbacks": [checkpoints], "plugins": [AtomicCheckpointIO()]}
    tiny.fit(stage, shapes(), 2, tmp_path, **options)
    assert CHECKPOINT_KEY in load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")


def test_no_statistics_where_no_sampler_needs_them_or_training_did_not_end(tiny, shapes, tmp_path):
    plain = make(tiny, "diffusion_prior", SamplerConfig(name="ddpm", steps=3))
    assert CHECKPOINT_KEY not in train(tiny, plain, shapes, tmp_path)
    stopped = make(tiny, "diffusion_prior")
    tiny.fit(stopped, shapes(), 5, tmp_path, max_time="00:00:00:00")
    assert stopped.statistics is None


@pytest.mark.parametrize("name", ["diffusion_prior", "decoder", "upsampler"])
def test_validation_draws_with_the_statistics_once_they_are_there(tiny, shapes, monkeypatch, name):
    stage, batch, used = make(tiny, name), shapes().dataset("val").__getitems__([0, 1, 2]), []

    def spied(sampler):
        original = getattr(samplers, sampler)

        def spy(*args, **options):
            used.append((sampler, options.get("statistics")))
            return original(*args, **options)

        monkeypatch.setattr(samplers, sampler, spy)

    spied("analytic_dpm")
    spied("ddpm")
    draw = stage.judge if name == "diffusion_prior" else stage.show_samples
    draw(batch)
    assert {sampler for sampler, _ in used} == {"ddpm"}
    used.clear()
    statistics = ScoreStatistics(stage.trajectory.timesteps, torch.full((3,), 0.9).double(), 0.3, 5)
    stage._model = replace(stage._model, statistics=statistics)
    draw(batch)
    assert {sampler for sampler, _ in used} == {"analytic_dpm"}
    assert all(statistics is stage.statistics for _, statistics in used)


def test_a_run_samples_every_stage_with_its_own_statistics(tiny, stored_run, tmp_path, monkeypatch):
    """Each stage of a run gets other statistics; what Analytic-DPM is given is looked at."""
    seen = []
    original = samplers.analytic_dpm

    def spy(*args, statistics, eta, **options):
        seen.append((statistics.count, eta))
        return original(*args, statistics=statistics, eta=eta, **options)

    monkeypatch.setattr(samplers, "analytic_dpm", spy)
    trajectory = respace(Objective().noise_schedule, 3, "adm")
    for count, name in enumerate(STAGES, start=1):
        values = torch.full((3,), 0.9, dtype=torch.float64)
        statistics = ScoreStatistics(trajectory.timesteps, values, 0.3, count).to_tensors()
        config = {"name": "analytic_ddim" if name == "upsampler" else "analytic_dpm", "steps": 3, "spacing": "adm"}
        network = tiny.randomise(tiny.make_network(name))
        extra = {f"statistics.{key}": tensor for key, tensor in statistics.items()}
        tiny.write_stage(tmp_path / name, name, network, extra, sampler=config)
        assert load_model(tmp_path / name).model.statistics.count == count
    assert load_model(stored_run / "decoder").model.statistics is None
    tiny.write_clip(tmp_path / "clip")
    system = UnCLIP(tmp_path)
    system.generate(["a red circle"], "diffusion_prior")
    system.generate(["a red circle"], "glide", upsample=False)
    assert seen == [(1, 1.0), (1, 1.0), (2, 1.0), (4, 0.0), (3, 1.0)]


def test_statistics_of_other_timesteps_are_refused_in_words(stored_run):
    system = UnCLIP.from_run(stored_run, diffusion_prior={"steps": 3})
    with pytest.raises(InputError, match=r"for the 4 timesteps that the stage was trained .* not for all of these 3"):
        system.generate(["a red circle"], "diffusion_prior")


@pytest.mark.parametrize("name", STAGES)
def test_conditioned_is_what_sampling_evaluates(tiny, shapes, name):
    """One step of DDIM returns its estimate of x0: the sampling functions' and the stage's own denoiser's agree."""
    stage = make(tiny, name, SamplerConfig(name="ddim", steps=1, threshold=None)).eval()
    batch = shapes().dataset("val").__getitems__([0, 1, 2])
    rows = batch.embeddings

    def seeds():
        return [torch.Generator().manual_seed(k) for k in range(3)]

    denoiser, x0 = stage.averaged_model.denoiser(batch)
    x_T = torch.stack([torch.randn(x0.shape[1:], generator=g) for g in seeds()])
    with torch.no_grad():
        estimate = denoiser(x_T, torch.full((3,), 999)).x0
    common = stage.averaged, stage.objective, stage.sampler
    if name == "diffusion_prior":
        assert_close(x0, rows.z_i * 17.2 * (16 / 1024) ** 0.5)
        drawn = DiffusionPriorModel(*common, candidates=1).sample(rows.captions, seeds())
        estimate = torch.nn.functional.normalize(estimate, dim=1)
    elif name == "upsampler":
        assert torch.equal(x0, batch.images)
        low = torch.nn.functional.interpolate(batch.images, scale_factor=0.5, mode="bicubic", antialias=True)
        drawn = UpsamplerModel(*common).sample(low.clamp(-1, 1), seeds())
    else:
        assert torch.equal(x0, batch.images)
        z_i = None if name == "glide" else rows.z_i
        drawn = DecoderModel(*common).sample(rows.tokens, z_i, seeds(), size=batch.images.shape[-1])
    expected = estimate if name == "diffusion_prior" else estimate.clamp(-1, 1)
    assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


def test_the_bound_is_that_of_the_denoiser(tiny, shapes):
    """A network that always says 0: the errors of its estimates are known, and with them the bound's terms."""
    stage = make(tiny, "decoder", SamplerConfig(threshold=None))
    batch = shapes().dataset("val").__getitems__([0, 1, 2])
    with torch.no_grad():
        for parameter in stage.average.parameters():
            parameter.zero_()
    schedule = respace(stage.objective.noise_schedule, 5)
    found = stage.averaged_model.bound(
        batch, schedule, [torch.Generator().manual_seed(k) for k in range(3)], "fixed_small"
    )
    mse = batch.images.square().flatten(1).mean(dim=1)
    assert_close(found.x0_mse, mse[:, None].expand(3, 5))
    # epsilon's error is x0's, times signal over noise.
    assert_close(found.epsilon_mse, mse[:, None] * schedule.snr.float(), rtol=1e-3, atol=1e-6)
    kl = schedule.posterior_x0_coefficient**2 / (2 * schedule.posterior_variance) / torch.tensor(2.0).log()
    assert_close(found.terms[:, 1:], mse[:, None] * kl[1:].float(), rtol=1e-3, atol=1e-6)


def test_gaussian_likelihood_for_embeddings_and_discretised_for_pictures(tiny):
    assert [make(tiny, name).model.likelihood for name in STAGES] == ["gaussian", *["discretised"] * 3]


def test_guidance_within_an_interval_and_rescaled(tiny, stored_run):
    """What the config says of guidance reaches the network's output: once more with the pieces put together by hand."""
    from modules.diffusion.guidance import guide
    from modules.diffusion.schedules import noise_interval

    stored = load_model(stored_run / "diffusion_prior").model
    network, objective = stored.network, stored.objective
    tokens, z_t = torch.tensor([[3, 4, 0]]), torch.nn.functional.normalize(torch.ones(1, 16), dim=1)
    tokens = torch.nn.functional.pad(tokens, (0, 17))
    config = SamplerConfig(name="ddim", steps=6, guidance_scale=4.0, threshold=None)

    def drawn(sampler):
        model = DiffusionPriorModel(network, objective, sampler, candidates=1)
        return model.sample(Captions(tokens, z_t), [torch.Generator().manual_seed(1)])

    cache = network.encode(torch.cat([tokens] * 2), torch.cat([z_t] * 2), torch.tensor([True, False]))
    for interval, rescale in [((0.5, 5.0), 0.0), (None, 0.7), ((0.5, 5.0), 0.7)]:
        levels = None if interval is None else noise_interval(objective.noise_schedule, *interval)
        model = guide(lambda x, t: network.step(x, t, cache), 4.0, interval=levels, rescale=rescale)
        x_T = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            by_hand = DiffusionModel(network, objective, config).draw(model, x_T, [torch.Generator()])
        found = drawn(replace(config, guidance_interval=interval, guidance_rescale=rescale))
        assert_close(found, torch.nn.functional.normalize(by_hand, dim=1))
        assert not torch.allclose(found, drawn(config), atol=1e-3)


def by_importance(tiny, name):
    stage = make(tiny, name, SamplerConfig(steps=2))
    objective = replace(stage.objective, num_steps=4, timesteps="loss_second_moment", weighting="none")
    args = {"objective": objective, "sampler": stage.sampler, "training": stage.training_config}
    return type(stage)(stage.network, optimizer=stage.optimizer, **args)


@pytest.mark.parametrize("name", ["diffusion_prior", "decoder", "upsampler"])
def test_timesteps_drawn_by_their_losses(tiny, shapes, tmp_path, name):
    """After a history of 10 losses a timestep: the draw follows them, the loss does not, and a checkpoint has them."""
    stage, batch = by_importance(tiny, name), shapes().dataset("train").__getitems__(range(32))
    content = train(tiny, stage, shapes, tmp_path, steps=8)
    assert {"importance.losses", "importance.seen"} <= set(content["state_dict"])
    assert stage.importance.seen.sum() == 8 * 8
    schedule, skewed = stage.objective.noise_schedule, torch.tensor([1.0, 1.0, 1.0, 5.0])
    for _ in range(10):
        stage.importance.update(schedule, schedule.timesteps, skewed)
    p = stage.importance.probabilities()
    assert_close(p, 0.999 * skewed / 8 + 0.001 / 4)
    data = torch.cat([stage.model.denoiser(batch)[1]] * 8)
    t, _, x_t = stage.model.drawn(data, stage.generator(7))
    assert (t == 3).double().mean().item() == pytest.approx(5 / 8, abs=0.1)
    judged = stage.averaged_model.drawn(x_t, stage.generator(7))[0]
    assert (judged == 3).double().mean().item() == pytest.approx(1 / 4, abs=0.1)
    # The weights take the emphasis back, and what is remembered is without them.
    t, x0 = t[:32], torch.zeros_like(x_t[:32])
    off = x0 + (t == 3).to(x0).reshape(-1, *[1] * (x0.ndim - 1)) + 1
    evaluation = Evaluation(x0, x0, t, off)
    weighted = ((1 + 3.0 * (t == 3)) / (4 * p[t])).mean()
    assert_close(stage.model.mean_loss(evaluation), weighted, rtol=1e-4, atol=0)
    assert stage.averaged_model.mean_loss(evaluation) == pytest.approx((1 + 3.0 * (t == 3)).mean().item())
    assert set(stage.importance.losses[3, :].tolist()) <= {5.0, 4.0}
    assert 4.0 in stage.importance.losses[3, :].tolist()


def test_without_importance_a_checkpoint_holds_nothing_of_it(tiny):
    assert not any("importance" in key for key in make(tiny, "decoder").state_dict())
