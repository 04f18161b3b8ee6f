"""A distilled upsampler does in one step what its teacher does in two."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from torch.testing import assert_close

from experiments.cli import main
from modules.diffusion import samplers
from modules.diffusion.schedules import respace
from modules.distillation.upsampler import DistilledUpsampler
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.exports import load_model
from modules.models.upsampler import UpsamplerModel
from modules.training.stage import TrainingConfig

LIMIT = 0.5
TRAINING = TrainingConfig(warmup_steps=0, ema_decay=0.95, decay_share=0.5)


@pytest.fixture
def make(tiny, stored_run):
    def make(**changes):
        teacher = load_model(stored_run / "upsampler", UpsamplerModel).model
        settings = {
            "teacher": str(stored_run / "upsampler"),
            "objective": teacher.objective,
            "crop": 1.0,
            "optimizer": lambda params: torch.optim.AdamW(params, lr=2e-3),
            "training": TRAINING,
            **changes,
        }
        return DistilledUpsampler(tiny.make_network("upsampler"), **settings)

    return make


@pytest.fixture
def data(shapes):
    return shapes(image_size=32, embeddings=None)


@pytest.fixture
def batch(data):
    return data.dataset("train").__getitems__(list(range(8)))


def drawn(model, low, steps, seed):
    """By DDIM, written here: the library's sampler on this model's own denoiser."""
    x_T = torch.randn(len(low), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    schedule = respace(model.objective.noise_schedule, steps, "trailing")
    with torch.no_grad():
        return samplers.ddim(model.denoiser_for(low, "static"), schedule, x_T)


def test_it_learns_to_draw_in_one_step_what_its_teacher_draws_in_two(make, data, batch, tiny, tmp_path):
    """Nearer than the teacher's own single step, for noise that training did not see. The teacher's weights are random.

    Measured: to 0.35 of that distance.
    """
    stage = make(corruption="none")
    low = stage.averaged_model.shrunk(batch.images)
    wanted, alone = (torch.stack([drawn(stage.teacher, low, steps, k) for k in range(4)]) for steps in (2, 1))
    tiny.fit(stage, tiny.repeat(data, batch, 300), 300, tmp_path)
    found = torch.stack([drawn(stage.averaged_model, low, 1, k) for k in range(4)])
    distance, before = ((pictures - wanted).square().mean().item() for pictures in (found, alone))
    assert distance < LIMIT * before, (distance, before)


@torch.no_grad()
def test_its_first_loss_is_that_of_the_teachers_two_steps(make, batch):
    """By hand, for one step from t = 999, where the weight min(SNR + 1, 5) is 1 to 1e-4."""
    stage = make()
    stage.network.load_state_dict(stage.teacher.network.state_dict())
    stage.network.eval()
    found = stage.training_loss(batch, torch.Generator().manual_seed(3))

    generator = torch.Generator().manual_seed(3)
    x0, enlarged = stage.model.window(batch, generator)
    noise = torch.randn(x0.shape, generator=generator)
    alpha_bar = stage.objective.noise_schedule.alpha_bar.float()
    network = stage.teacher.network
    x_T = alpha_bar[999].sqrt() * x0 + (1 - alpha_bar[999]).sqrt() * noise
    output = network(x_T, torch.full((8,), 999), enlarged)
    first = output.clamp(-1, 1)
    epsilon = (x_T - alpha_bar[999].sqrt() * first) / (1 - alpha_bar[999]).sqrt()
    middle = alpha_bar[499].sqrt() * first + (1 - alpha_bar[499]).sqrt() * epsilon
    second = network(middle, torch.full((8,), 499), enlarged).clamp(-1, 1)
    assert_close(found, (output - second).square().mean(), rtol=1e-3, atol=0)
    assert found > 0


def test_it_starts_as_the_teacher_which_no_checkpoint_holds(make):
    stage = make()
    names = set(stage.state_dict())
    stage.on_fit_start()
    for network in (stage.network, stage.averaged):
        for name, tensor in stage.teacher.network.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name
    assert set(stage.state_dict()) == names
    assert not any(p is q for p in stage.parameters() for q in stage.teacher.network.parameters())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sampler": SamplerConfig(name="dpm_solver_pp", steps=1)}, "sampler.name is dpm_solver_pp: .* for ddim"),
        ({"sampler": SamplerConfig(name="ddim", steps=1, eta=1.0)}, "sampler.eta is 1.0"),
        ({"objective": Objective(parameterization="epsilon")}, "parameterization is epsilon: .* x0 or v"),
        (
            {"sampler": SamplerConfig(name="ddim", steps=27, spacing="adm")},
            "27 steps with spacing adm.*take spacing trailing",
        ),
    ],
)
def test_samplers_that_do_not_fit_are_refused(make, changes, reason):
    with pytest.raises(InputError, match=reason):
        make(**changes).check_start()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"objective": Objective(parameterization="v")},
            "is v, that of the teacher in .*upsampler is x0",
        ),
        ({"teacher": "nowhere"}, "nowhere"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(make, change, reason):
    with pytest.raises(InputError, match=reason):
        _ = make(**change).teacher


def test_a_decoder_is_no_teacher_of_an_upsampler(make, stored_run):
    with pytest.raises(InputError, match="decoder"):
        _ = make(teacher=str(stored_run / "decoder")).teacher


def test_another_network_or_importance_is_refused_before_training(make, tiny, stored_run):
    wide = tiny.make_network("upsampler", unet={**tiny.UNET, "image_size": 32, "channels": 16})
    settings = {"teacher": str(stored_run / "upsampler"), "objective": make().objective}
    with pytest.raises(InputError, match=r"not that of the teacher in .*: unet\.\S+ is \S+, the teacher's \S+"):
        DistilledUpsampler(wide, **settings).check_start()
    with pytest.raises(InputError, match="timesteps is loss_second_moment"):
        make(objective=replace(make().objective, timesteps="loss_second_moment")).check_start()


def test_a_student_of_two_steps_learns_both(make, batch):
    """Its timesteps are where the steps of its trajectory begin."""
    stage, asked = make(sampler=SamplerConfig(name="ddim", steps=2, spacing="trailing")), []
    stage.network.register_forward_pre_hook(lambda _, arguments: asked.append(arguments[1]))
    for seed in range(4):
        stage.training_loss(batch, torch.Generator().manual_seed(seed))
    assert set(torch.cat(asked).tolist()) == {499, 999}


def test_whom_the_teacher_asks_to_name_stands_in_the_export(make, data, batch, tiny, tmp_path, stored_run):
    """With its licence, as of weights that `init_from` names: the student starts from them."""
    teacher = tmp_path / "teacher"
    shutil.copytree(stored_run / "upsampler", teacher)
    path, licence = teacher / "export" / "config.yaml", {"name": "mine-1.0", "text": "Be kind.", "of": "its teacher"}
    said = {"attribution": "Noto by Google (Apache 2.0, https://x.org)", "licence": licence}
    model, root = yaml.safe_load(path.read_text()), tmp_path / "student"
    path.write_text(yaml.safe_dump({**model, **said}))
    root.mkdir()
    (root / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    tiny.fit(make(teacher=str(teacher)), tiny.repeat(data, batch, 1), 1, root)
    exported = yaml.safe_load((root / "export" / "config.yaml").read_text())
    assert (exported["attribution"], exported["licence"]) == (said["attribution"], licence)


def test_a_resumed_training_goes_on_from_its_own_weights(make, data, tiny, tmp_path):
    settings = {"training": TrainingConfig(warmup_steps=0, ema_decay=0.5)}
    whole, first, again = make(**settings), make(**settings), make(**settings)
    tiny.fit(whole, data, 4, tmp_path / "whole")
    tiny.fit(first, data, 2, tmp_path / "first").save_checkpoint(tmp_path / "saved.ckpt")
    tiny.fit(again, data, 4, tmp_path / "again", tmp_path / "saved.ckpt")
    assert_close(again.network.state_dict(), whole.network.state_dict())


def test_a_teacher_that_is_not_there_leaves_the_run_folder_as_it_was(tiny, tmp_path):
    """`unclip fit` refuses it before an earlier run is moved aside."""
    _, network, arguments, _ = tiny.STAGES["upsampler"]
    settings = {
        "network": {"class_path": network, "init_args": arguments},
        "teacher": str(tmp_path / "nowhere"),
        "objective": {"parameterization": "x0"},
        "crop": 1.0,
    }
    data = {"image_size": 32, "batch_size": 4, **tiny.SIZES, "cache_dir": None}
    content = {
        "trainer": {"default_root_dir": str(tmp_path / "run"), "max_steps": 1},
        "model": {"class_path": "modules.distillation.upsampler.DistilledUpsampler", "init_args": settings},
        "data": {"class_path": "datamodules.shapes.ShapesDataModule", "init_args": data},
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(content))
    earlier = tmp_path / "run" / "config.yaml"
    earlier.parent.mkdir()
    earlier.write_text("model: {}\n")
    assert main(["fit", "--config", str(tmp_path / "fit.yaml"), "--overwrite"]) == 2
    assert earlier.read_text() == "model: {}\n" and [path.name for path in earlier.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("kind", ["upsampler", "decoder"])
def test_its_memory_can_be_planned(kind, capsys):
    """Where the stage is made as shapes only, and no teacher is there."""
    files = [f"experiments/{name}.yaml" for name in (f"quickstart/{kind}", f"shapes/{kind}", f"shapes/one_step_{kind}")]
    assert main(["plan", *files, "--devices", "1"]) == 0
    assert "parameters" in capsys.readouterr().out
