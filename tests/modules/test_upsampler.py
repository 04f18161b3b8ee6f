"""The upsampler: beats bicubic on what it has learned; crops and corruption are what the config says."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from modules.images.degradations import gaussian_blur, random_crop
from modules.models.configs import Objective, SamplerConfig
from modules.training.measures import psnr
from modules.training.model_stage import picture_count, picture_parts
from modules.training.stage import TrainingConfig
from modules.upsampler import Upsampler

TRAINING = TrainingConfig(warmup_steps=0, ema_decay=0.95, decay_share=0.7)
OBJECTIVE = Objective(parameterization="x0", weighting="min_snr_plus_one")
SOLVER = SamplerConfig(name="dpm_solver_pp", steps=3)


@pytest.fixture
def make(tiny):
    def make(**changes) -> Upsampler:
        optimizer = lambda params: torch.optim.AdamW(params, lr=1e-3)  # noqa: E731
        settings = {"objective": OBJECTIVE, "sampler": SOLVER, "optimizer": optimizer, "training": TRAINING, **changes}
        unet = {**tiny.UNET, "image_size": 32, "channels": 16}
        return Upsampler(tiny.make_network("upsampler", unet=unet), **settings)

    return make


@pytest.fixture
def data(shapes):
    return shapes(image_size=32, embeddings=None)


@pytest.fixture
def batch(data):
    return data.dataset("train").__getitems__(range(8))


class Spy(nn.Module):
    """In place of the network: predicts zero, and remembers what it was asked."""

    unet = SimpleNamespace(first=nn.Conv2d(3, 1, 3))

    factor, text, last_unet = 2, None, None

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def enlarge(self, low):
        return low

    def forward(self, x_t, t, low, last=None, caption=None):
        assert caption is None
        self.asked.append((x_t, t, low))
        return torch.zeros_like(x_t)


def shrunk(images):
    return F.interpolate(images, scale_factor=0.5, mode="bicubic", antialias=True).clamp(-1, 1)


def test_it_learns_a_batch_and_beats_bicubic(make, data, batch, tiny, tmp_path):
    stage = make(crop=1.0, corruption="none")
    before = {name: value.mean().item() for name, value in stage.judge(batch).items()}
    assert before["psnr"] == pytest.approx(before["psnr_bicubic"], abs=0.1)  # An untrained residual is nothing.
    tiny.fit(stage, tiny.repeat(data, batch, 100), 100, tmp_path)
    after = {name: value.mean().item() for name, value in stage.judge(batch).items()}
    assert after["psnr_bicubic"] == before["psnr_bicubic"]
    assert after["psnr"] > after["psnr_bicubic"] + 3


@pytest.mark.parametrize("corruption", ["gaussian_blur", "bsr"])
def test_it_learns_crops_of_a_batch_whatever_the_corruption(make, data, batch, tiny, tmp_path, corruption):
    stage = make(crop=0.5, corruption=corruption)

    def loss():
        with torch.no_grad():
            return sum(stage.training_loss(batch, stage.generator(0, k)).item() for k in range(20)) / 20

    untrained = loss()
    tiny.fit(stage, tiny.repeat(data, batch, 150), 150, tmp_path)
    trained = loss()
    assert trained < 0.7 * untrained  # An untrained residual is bicubic's enlargement, which is hard to beat.


def test_the_condition_is_the_shrunk_window_of_the_same_picture(make, batch):
    stage = make(corruption="none", crop=0.5)
    stage.network = Spy()
    loss = stage.training_loss(batch, stage.generator(0, 1))
    ((x_t, t, low),) = stage.network.asked
    g = stage.generator(0, 1)
    windows = random_crop(batch.images, 16, 2, g)
    at, _, noised = OBJECTIVE.draw(windows, g)
    assert torch.equal(t, at) and torch.equal(x_t, noised)
    assert_close(low, shrunk(windows))
    alpha_bar = OBJECTIVE.noise_schedule.alpha_bar[t]
    weight = (alpha_bar / (1 - alpha_bar) + 1).clamp(max=5)
    assert_close(loss.double(), (weight * windows.double().square().mean(dim=(1, 2, 3))).mean())


@pytest.mark.parametrize(("crop", "side"), [(0.25, 8), (1.0, 32)])
def test_the_window_is_the_configs_share(make, batch, crop, side):
    stage = make(crop=crop)
    stage.network = Spy()
    stage.training_loss(batch, stage.generator(0))
    assert stage.network.asked[0][0].shape == (8, 3, side, side)
    assert stage.network.asked[0][2].shape == (8, 3, side // 2, side // 2)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_condition_is_blurred_as_often_as_the_config_says(make, batch, share):
    stage = make(crop=1.0, corruption_share=share)
    stage.network, calls = Spy(), 60
    for step in range(calls):
        stage.training_loss(batch, stage.generator(0, step))
    low = shrunk(batch.images)
    seen = torch.stack([asked[2] for asked in stage.network.asked])
    plain = (seen - low).abs().amax(dim=(2, 3, 4)) < 1e-6
    blurred = (seen - gaussian_blur(low)).abs().amax(dim=(2, 3, 4)) < 1e-6
    assert (plain ^ blurred).all()
    assert blurred.double().mean() == pytest.approx(share, abs=3.5 * math.sqrt(share * (1 - share) / (8 * calls)))


def test_psnr_of_a_known_error():
    truth = torch.zeros(2, 3, 4, 4)
    images = torch.stack([truth[0] + 0.2, truth[1] - 0.02])  # of a range of 2: 20 dB and 40 dB
    assert_close(psnr(images, truth), torch.tensor([20.0, 40.0]))
    assert psnr(truth, truth).tolist() == [100, 100]


def test_what_is_shown_is_condition_sample_and_truth(make, batch, tiny):
    stage = make()
    tiny.randomise(stage.averaged, seed=1)
    enlarged, drawn, truth = stage.show_samples(batch).chunk(3)
    assert torch.equal(truth, batch.images[:4])
    assert_close(enlarged, stage.network.enlarge(shrunk(batch.images[:4])))
    assert_close(stage.judge(batch._replace(images=truth))["psnr"], psnr(drawn, truth))


@pytest.mark.parametrize(("judged", "shown"), [(1, 2), (3, 1)])
def test_a_yaml_says_how_many_samples_validation_draws(make, batch, monkeypatch, judged, shown):
    stage, drawn = make(training=TrainingConfig(samples_judged=judged, samples_shown=shown)), []
    monkeypatch.setattr(
        type(stage), "_drawn", lambda self, low, batch: (drawn.append(len(low)), self.network.enlarge(low))[1]
    )
    assert len(stage.show_samples(batch)) == 3 * shown
    stage.judge(batch)
    assert drawn == [shown, judged]


def test_validation_of_large_pictures_draws_few_and_one_at_a_time():
    assert [picture_count(16, side) for side in (16, 256, 512, 1024, 4096)] == [16, 16, 16, 4, 1]
    assert [picture_count(4, side) for side in (256, 1024, 2048)] == [4, 4, 1]
    assert picture_parts(16, 256) == [slice(0, 16)]
    assert picture_parts(3, 1024) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_parts_draw_what_the_whole_does(make, batch, tiny, monkeypatch):
    stage = make()
    tiny.randomise(stage.averaged, seed=1)
    whole = stage.show_samples(batch)
    monkeypatch.setattr("modules.training.model_stage.PART_PIXELS", 2 * batch.images.shape[-1] ** 2)
    assert_close(stage.show_samples(batch), whole, atol=1e-5, rtol=1e-5)


def test_the_papers_window_and_sampler_are_the_defaults(tiny):
    stage = Upsampler(tiny.make_network("upsampler"))
    assert (stage.model.crop, stage.model.corruption, stage.model.corruption_share) == (0.25, "gaussian_blur", 1.0)
    assert (stage.sampler.name, stage.sampler.steps) == ("ddim", 27)
    assert stage.objective.parameterization == "epsilon"
