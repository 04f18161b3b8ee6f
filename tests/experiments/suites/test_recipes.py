"""What suites train with. Most extend the quickstart's YAMLs; a change there must not change their pages' numbers."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.console.configs import overlaid, read_config
from experiments.suites.suite import load_suite
from experiments.training.config import read

# Steps, timesteps, share of the average that a step keeps, sampling steps.
DECODERS = {
    ("quickstart", "decoder"): (760, "logit_normal", 0.975, 3),
    ("quickstart", "glide"): (400, "logit_normal", 0.975, 6),
    ("shapes", "decoder"): (3000, "uniform", 0.995, 4),
    ("shapes", "text_decoder"): (3000, "uniform", 0.995, 4),
    ("shapes", "weak_decoder"): (250, "uniform", 0.97, 4),
    ("shapes", "distilled_decoder"): (300, "uniform", 0.98, 4),
    ("shapes", "one_step_decoder"): (600, "uniform", 0.98, 1),
    ("shapes", "glide"): (2400, "logit_normal", 0.995, 6),
    ("drawings", "decoder_first"): (7000, "logit_normal", 0.998, 8),
    ("drawings", "decoder_second"): (4646, "logit_normal", 0.998, 8),
    ("drawings", "decoder"): (6500, "logit_normal", 0.998, 8),
    ("drawings", "glide"): (9000, "logit_normal", 0.998, 6),
    ("emoji", "decoder"): (1600, "uniform", 0.985, 4),
    ("emoji", "glide"): (1000, "uniform", 0.985, 6),
    ("signs", "decoder"): (2000, "uniform", 0.985, 4),
    ("signs", "decoder_bpe"): (2000, "uniform", 0.985, 4),
    ("signs", "decoder_characters"): (2000, "uniform", 0.985, 4),
    ("crowds", "decoder"): (800, "uniform", 0.985, 4),
}
# Width, optimiser, steps.
JUDGES = {
    "quickstart": (16, "Muon", 240),
    "shapes": (32, "AdamW", 1400),
    "drawings": (32, "AdamW", 450),
    "emoji": (32, "AdamW", 450),
}


# Channels, pixels of a patch, learning rate, steps, sampling steps, scale of the pseudo-Huber loss.
UPSAMPLERS = {
    "quickstart": (16, 2, 2.5e-3, 660, 1, 0.1),
    "shapes": (32, 2, 2e-3, 4000, 2, 0.1),
    "drawings": (32, 2, 2e-3, 2000, 2, None),
    "emoji": (48, 4, 2e-3, 1000, 2, None),
}
# Steps.
CLIPS = {"quickstart": 840, "shapes": 1800, "drawings": 900, "emoji": 900, "crowds": 900, "signs": 900}
# Tokens of a caption, of all stages that read captions.
CONTEXTS = {
    "quickstart": 16,
    "shapes": 20,
    "drawings": 16,
    "emoji": 16,
    "crowds": 24,
    "sam": 20,
    "priors": 16,
    "dalle1": 16,
}
# How it samples: name, steps, spacing, guidance.
PRIORS = {
    ("quickstart", "diffusion_prior"): ("analytic_dpm", 8, "trailing", 1.25),
    ("shapes", "diffusion_prior"): ("analytic_dpm", 64, "adm", 1.0),
    ("crowds", "diffusion_prior"): ("analytic_dpm", 64, "adm", 1.0),
    ("emoji", "diffusion_prior"): ("analytic_dpm", 64, "adm", 1.0),
    ("drawings", "diffusion_prior_first"): ("ddim", 4, "trailing", 1.5),
    ("drawings", "diffusion_prior"): ("ddim", 4, "trailing", 1.5),
    ("priors", "diffusion_prior_no_text"): ("analytic_dpm", 8, "trailing", 1.0),
    ("priors", "mlp_prior"): ("analytic_dpm", 8, "trailing", 1.25),
    ("priors", "mlp_prior_no_text"): ("analytic_dpm", 8, "trailing", 1.0),
}


def settings(suite: str, stage: str) -> DictConfig:
    """The stage's YAMLs, laid over each other."""
    loaded = load_suite(Path(f"experiments/{suite}/suite.yaml"))
    files = loaded.stages[stage].configs(loaded.run)
    merged = OmegaConf.merge(*(OmegaConf.create(read_config(Path(file))) for file in files))
    assert isinstance(merged, DictConfig)
    return merged


@pytest.mark.parametrize(("suite", "stage"), DECODERS)
def test_decoders(suite, stage):
    found = settings(suite, stage)
    model = found.model.init_args
    timesteps = OmegaConf.select(model, "objective.timesteps", default="uniform")
    training = (found.trainer.max_steps, timesteps, model.training.ema_decay)
    assert (*training, model.sampler.steps) == DECODERS[suite, stage]


@pytest.mark.parametrize("suite", JUDGES)
def test_judges(suite):
    found = settings(suite, "eval_clip")
    model = found.model.init_args
    optimizer = model.optimizer.class_path.rpartition(".")[2]
    assert (model.vision_cfg.width, optimizer, found.trainer.max_steps) == JUDGES[suite]


@pytest.mark.parametrize("suite", UPSAMPLERS)
def test_upsamplers(suite):
    found = settings(suite, "upsampler")
    model = found.model.init_args
    unet = model.network.init_args.unet
    how = (model.optimizer.init_args.lr, found.trainer.max_steps, model.sampler.steps, model.objective.huber_scale)
    assert (unet.channels, unet.patch_size, *how) == UPSAMPLERS[suite]


@pytest.mark.parametrize("suite", CLIPS)
def test_clips(suite):
    assert settings(suite, "clip").trainer.max_steps == CLIPS[suite]


@pytest.mark.parametrize("suite", CONTEXTS)
def test_captions_have_as_many_tokens_in_all_stages(suite):
    loaded = load_suite(Path(f"experiments/{suite}/suite.yaml"))
    found = {}
    for stage in loaded.stages:
        if loaded.stages[stage].configs(loaded.run):
            model = OmegaConf.select(settings(suite, stage), "model.init_args", default=OmegaConf.create())
            for key in ("text_cfg", "network.init_args"):
                if (context := OmegaConf.select(model, f"{key}.context_length")) is not None:
                    found[stage] = context
    assert found and set(found.values()) == {CONTEXTS[suite]}, found


@pytest.mark.parametrize(("suite", "stage"), PRIORS)
def test_how_diffusion_priors_sample(suite, stage):
    sampler = settings(suite, stage).model.init_args.sampler
    assert (sampler.name, sampler.steps, sampler.spacing, sampler.guidance_scale) == PRIORS[suite, stage]


@pytest.mark.parametrize("name", ["embeddings", "pictures"])
def test_the_league_draws_once_without_guidance_beside_the_rows_as_trained(name):
    as_trained, drawn = read_config(Path(f"experiments/priors/{name}.yaml"))["points"]
    assert as_trained == {} and (drawn["prior.candidates"], drawn["prior.guidance_scale"]) == (1, 1.0)


def test_the_judge_of_the_quickstart_trains_its_attention_pool_by_adamw():
    """Muon's work on the pool's three matrices of 512 x 512 took half of a step."""
    optimizer = settings("quickstart", "eval_clip").model.init_args.optimizer.init_args
    pool = "visual.attnpool.q_proj.weight"
    assert any(part in pool for part in optimizer.around)
    assert not any(part in "visual.layer4.0.conv3.weight" for part in optimizer.around)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("distilled_decoder", "decoder"),
        ("one_step_decoder", "distilled_decoder"),
        ("one_step_upsampler", "upsampler"),
    ],
)
def test_a_student_has_the_network_and_the_objective_of_its_teacher(student, teacher):
    """As `unclip fit` reads their YAMLs: the student's name another class, and neither network nor objective."""
    found, other = fitted("shapes", student), fitted("shapes", teacher)
    own, theirs = found["model"]["init_args"], other["model"]["init_args"]
    assert own["teacher"] == other["trainer"]["default_root_dir"]
    assert own["network"] == theirs["network"] and own["objective"] == theirs["objective"]
    assert own.get("crop") == theirs.get("crop") and own.get("drop_text") == theirs.get("drop_text")


def several() -> list[tuple[str, str]]:
    """The stages of all suites whose command names several YAMLs."""
    suites = {path.parent.name: load_suite(path) for path in sorted(Path("experiments").glob("*/suite.yaml"))}
    pairs = [(name, stage) for name, suite in suites.items() for stage in suite.stages]
    return [(name, stage) for name, stage in pairs if len(suites[name].stages[stage].configs(suites[name].run)) > 1]


def fitted(suite: str, stage: str) -> dict[str, Any]:
    """The stage's configuration, as `unclip fit` reads it."""
    loaded = load_suite(Path(f"experiments/{suite}/suite.yaml"))
    return read([word for file in loaded.stages[stage].configs(loaded.run) for word in ("--config", file)])


def leaves(content: object, name: str = "") -> dict[str, object]:
    """Every value that is no mapping, by its name with dots, without `init_args` (which may be left out)."""
    if not isinstance(content, dict):
        return {name: content}
    names = {part: name if part == "init_args" else f"{name}.{part}" for part in content}
    return {key: value for part in content for key, value in leaves(content[part], names[part]).items()}


@pytest.mark.parametrize(("suite", "stage"), several())
def test_unclip_fit_reads_several_yamls_as_they_are_laid_over_each_other(suite, stage):
    """As `extends` lays them; jsonargparse alone takes of a dict the last YAML's keys only."""
    loaded = load_suite(Path(f"experiments/{suite}/suite.yaml"))
    files = loaded.stages[stage].configs(loaded.run)
    merged = OmegaConf.create(reduce(overlaid, (read_config(Path(file)) for file in files)))
    wanted = leaves(OmegaConf.to_container(merged, resolve=True)["model"])
    found = leaves(fitted(suite, stage)["model"])
    assert {name: found.get(name) for name in wanted} == wanted
