"""The YAMLs that `unclip new` writes."""

from __future__ import annotations

import copy
import math
import shlex
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.own_data.choices import Choices, Pretrained, choose
from experiments.own_data.survey import Survey
from modules.conditions import CONDITIONS, sampled

PRIORS = ("linear_prior", "ar_prior", "diffusion_prior")


def suite_files(
    survey: Survey, choices: Choices, folder: Path, run: str, pretrained: Pretrained | None = None
) -> dict[str, str]:
    """File name -> content.

    Args:
        folder: of the files, as commands are to name it.
        run: the suite's run folder.
    """
    stages = _stages(survey, choices, pretrained)
    environment = Environment(
        loader=PackageLoader("experiments.own_data"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = _values(survey, choices, folder, run, pretrained) | {"stages": stages}
    names = ("suite", "data", *stages)
    return {f"{name}.yaml": environment.get_template(f"{name}.yaml.j2").render(values) for name in names}


def _stages(survey: Survey, choices: Choices, pretrained: Pretrained | None) -> list[str]:
    """The stages that are trained, each with a YAML of its own."""
    left_out = set() if choices.sizes.factor > 1 else {"upsampler"}
    if pretrained is not None:
        left_out.add("clip")
    if survey.sizes["train"] <= choices.sizes.width:  # Its principal components want more embeddings than dimensions.
        left_out.add("ar_prior")
    return [name for name in choices.steps if name not in left_out]


def _values(survey: Survey, choices: Choices, folder: Path, run: str, pretrained: Pretrained | None) -> dict[str, Any]:
    """What the templates name."""
    train, sizes = survey.sizes["train"], choices.sizes
    stages = _stages(survey, choices, pretrained)
    judge = choices.words if pretrained is None else choose(survey).words
    counts = ", ".join(f"{count:,} for {split}" for split, count in survey.sizes.items())
    return {
        "folder": folder,
        "run": run,
        "place": next(
            survey.section["init_args"][key]
            for key in ("train", "folder", "path")
            if key in survey.section["init_args"]
        ),
        "pairs": f"{survey.pairs:,} pairs, {counts}",
        "train": train,
        "reference": min(2048, usable(train)),
        "tested": min(256, usable(survey.sizes["test"])),
        "why": choices.reasons,
        "sizes": sizes,
        "words": choices.words,
        "judge_words": judge,
        "judge_width": 128 if train >= 1_000 else 64,
        "text_width": 128,
        "whiten": choices.whiten,
        "dropout": choices.dropout,
        "codes": min(sizes.width // 2, 128),
        "buckets": 256 if train >= 20_000 else 64 if train >= 1_000 else 16,
        "unet": _unet(sizes.decoder),
        "pretrained": pretrained,
        "conditions": _conditions(stages),
        "minutes": _minutes(choices, survey),
        "q": lambda path: shlex.quote(str(path)),
        "trainer": lambda stage, **more: _trainer(run, stage, choices.steps[stage], more),
        "data": lambda **more: _data(survey, sizes.decoder, run, **more),
        "embeddings_data": lambda batch: _embeddings_data(run, min(batch, max(8, train // 2))),
    }


def usable(pairs: int) -> int:
    """How many pairs of a split can be counted on: training bears with 1 % of pictures that cannot be read."""
    return pairs - math.ceil(pairs / 100)


def _unet(side: int) -> str:
    """What differs from the quickstart's U-Net of 32 px: further resolutions, larger patches."""
    levels = {32: "[1, 2, 4]", 64: "[1, 2, 4, 4]", 128: "[1, 2, 4, 4]"}[side]
    patch = ", patch_size: 4" if side == 128 else ""
    return f"{{channel_multipliers: {levels}, image_size: {side}{patch}}}"


def _conditions(stages: list[str]) -> dict[str, list[str]]:
    """Condition of `unclip sample` -> the stages that it needs, for those that the suite can draw."""
    found = {name: CONDITIONS[name].stages for name in sampled()}
    return {name: list(reversed(needed)) for name, needed in found.items() if set(needed) <= set(stages)}


def _minutes(choices: Choices, survey: Survey) -> dict[str, float]:
    """Hints for the runner: which stages are long."""
    from experiments.own_data.choices import SECONDS_PER_STEP

    step = SECONDS_PER_STEP[choices.sizes.decoder]
    cost = {"decoder": step, "glide": step, "clip": step / 2, "eval_clip": step / 4, "upsampler": 0.2}
    found = {name: round(count * cost.get(name, 0.08) / 60, 1) for name, count in choices.steps.items()}
    return found | {"embeddings": round(max(0.5, survey.pairs / 3_000), 1)}


def _trainer(run: str, stage: str, steps: int, more: dict[str, Any]) -> str:
    lines = [
        "trainer:",
        f"  default_root_dir: ${{oc.env:UNCLIP_RUN,{run}}}/{stage}",
        f"  max_steps: {steps}",
        f"  val_check_interval: {max(1, steps // 4)}",
        *(f"  {name}: {value}" for name, value in more.items()),
    ]
    return "\n".join(lines)


def _data(
    survey: Survey,
    side: int,
    run: str,
    batch_size: int = 64,
    image_size: int | None = None,
    draw: bool = False,
    embeddings: bool = False,
    seed: int | None = None,
) -> str:
    """The `data:` section: the survey's, with a stage's sizes.

    Args:
        draw: each of a pair's captions in turn; otherwise the first, which is the one that has been embedded.
        embeddings: attach the run's embeddings.
    """
    section = copy.deepcopy(survey.section)
    arguments = section["init_args"]
    arguments |= {"image_size": image_size or side, "batch_size": batch_size}
    if survey.several and not draw:
        arguments["captions"] = {**arguments.get("captions", {}), "draw": False}
    if embeddings:
        arguments["embeddings"] = f"${{oc.env:UNCLIP_RUN,{run}}}/embeddings"
    if seed is not None:
        arguments["seed"] = seed
    return yaml.safe_dump({"data": section}, sort_keys=False, allow_unicode=True, width=1000).rstrip()


def _embeddings_data(run: str, batch: int) -> str:
    return f"data:\n  init_args: {{folder: '${{oc.env:UNCLIP_RUN,{run}}}/embeddings', batch_size: {batch}}}"
