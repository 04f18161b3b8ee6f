"""Absurd numbers in an export or a CLIP's config are one line before memory or time is spent on them."""

from __future__ import annotations

import resource
import time

import pytest
import torch

from experiments.cli import main
from modules.clip.folder import check_config
from modules.diffusion.schedules import cosine, respace
from modules.errors import InputError
from modules.models.configs import SAMPLING_STEPS, Objective, SamplerConfig
from modules.models.exports import load_model
from modules.trained_run import TrainedRun

HUGE = 10**12


def at(*places, value=HUGE):
    """Sets a value in a config; the last place is its key."""

    def change(config):
        inner = config["init_args"]
        for place in places[:-1]:
            if inner.get(place) is None:
                inner[place] = {}
            inner = inner[place]
        inner[places[-1]] = value

    return change


UNET = ("network", "init_args", "unet")
NETWORK = ("network", "init_args")
NUMBERS = {
    "steps": ("decoder", at("sampler", "steps")),
    "steps of the prior": ("diffusion_prior", at("sampler", "steps")),
    "steps that are just too many": ("decoder", at("sampler", "steps", value=10_001)),
    "candidates": ("diffusion_prior", at("candidates")),
    "a picture's side": ("decoder", at(*UNET, "image_size")),
    "an upsampler's side": ("upsampler", at(*UNET, "image_size", value=4097)),
    "factor": ("upsampler", at(*NETWORK, "factor", value=17)),
    "channels": ("decoder", at(*UNET, "channels")),
    "depth": ("decoder", at(*UNET, "depth")),
    "levels": ("decoder", at(*UNET, "channel_multipliers", value=[1] * 5000)),
    "a multiplier": ("decoder", at(*UNET, "channel_multipliers", value=[1, HUGE])),
    "patch": ("decoder", at(*UNET, "patch_size")),
    "head channels": ("decoder", at(*UNET, "head_channels", value=-1)),
    "a body's middle": ("decoder", at(*UNET, "middle_depth")),
    "width": ("diffusion_prior", at(*NETWORK, "width")),
    "heads": ("diffusion_prior", at(*NETWORK, "heads")),
    "layers": ("diffusion_prior", at(*NETWORK, "depth")),
    "layers of a text encoder": ("decoder", at(*NETWORK, "text_depth")),
    "vocabulary": ("ar_prior", at(*NETWORK, "vocab_size")),
    "context": ("ar_prior", at(*NETWORK, "context_length")),
    "codes": ("ar_prior", at(*NETWORK, "num_codes")),
    "buckets of the codec": ("ar_prior", at("codec", "num_buckets")),
    "dimensions": ("linear_prior", at(*NETWORK, "embedding_dim")),
    "temperature": ("ar_prior", at("temperature", value=float("inf"))),
    "guidance": ("decoder", at("sampler", "guidance_scale", value=1e300)),
    "a map": ("decoder", at(*NETWORK, "pathway", value={"spatial_map": True, "hidden_width": HUGE})),
    "channels of pictures": ("decoder", at(*NETWORK, "channels")),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_a_number_that_nothing_has_is_one_line(config_of, what):
    stage, change = NUMBERS[what]
    folder = config_of(stage, change)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError) as error:
        load_model(folder)
    assert len(str(error.value)) < 2000 and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert time.process_time() - start < 20


def test_a_chain_of_upsamplers_ends_at_a_picture(config_of):
    folder = config_of("upsampler", at(*NETWORK, "factor", value=16))
    model = TrainedRun(folder.parent).upsampler("upsampler")
    with pytest.raises(InputError, match="the side of the enlarged picture must be a whole number from 1 to 4,096"):
        model.sample(torch.zeros(1, 3, 512, 512), [torch.Generator()])


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "image_size", HUGE),
        ("vision_cfg", "image_size", [16, 4097]),
        ("vision_cfg", "image_size", "16"),
        ("text_cfg", "context_length", 10**5),
        ("text_cfg", "context_length", 0),
    ],
)
def test_a_clips_sizes_are_bounded(clip_config, section, key, value):
    folder = clip_config(lambda config: config["model_cfg"][section].update({key: value}))
    with pytest.raises(InputError, match=rf"model_cfg\.{section}\.{key} must be 1 to 4096"):
        check_config(folder)


def test_as_many_steps_as_may_be_asked_for_take_little_memory():
    """Of any spacing: the longest schedule, and the most steps of it."""
    schedule = cosine(1000)
    assert SAMPLING_STEPS[0](10_000) and SamplerConfig(steps=10_000).steps == 10_000
    log_snr = schedule.log_snr
    grid = torch.linspace(float(log_snr[0]), float(log_snr[-1]), 6, dtype=torch.float64)
    nearest = (log_snr[None, :] - grid[:, None]).abs().argmin(dim=1)  # All at once.
    assert respace(schedule, 6, "log_snr").timesteps.tolist() == nearest.tolist()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    long = Objective(num_steps=100_000).noise_schedule
    with pytest.raises(ValueError, match="would repeat a timestep"):
        respace(long, 2000, "log_snr")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("what", ["layers", "width", "depth", "no settings"])
def test_a_plan_of_a_strangers_run_is_bounded_too(config_of, capsys, what):
    stage, change = NUMBERS.get(what, ("diffusion_prior", lambda config: config.update(init_args=3)))
    run = config_of(stage, change).parent
    start = time.process_time()
    assert main(["plan", "--sample", str(run), "--condition", "diffusion_prior"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "config.yaml" in error + "config.yaml" * (what == "no settings")
    assert time.process_time() - start < 20
