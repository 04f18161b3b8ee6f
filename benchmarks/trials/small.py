"""The quickstart made small: every stage with a few steps on little data, for tools and tests that try things out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "experiments" / "quickstart"
PROTOCOLS = ("guidance", "sampler", "prior")
SIZES = {"train_size": 96, "val_size": 24, "test_size": 24, "batch_size": 8}
STAGES = ("clip", "classifier", "linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler")


def shrink(config: dict[str, Any], steps: int = 2) -> dict[str, Any]:
    """A stage's YAML with few steps, small batches and few samples; the networks stay as they are."""
    if "trainer" in config:
        config["trainer"] |= {"max_steps": steps, "val_check_interval": 2, "limit_val_batches": 1, "accelerator": "cpu"}
    data = config["data"]["init_args"]
    data.update({key: value for key, value in SIZES.items() if key == "batch_size" or "folder" not in data})
    settings = config.get("model", {}).get("init_args", {})
    if "sampler" in settings:
        settings["sampler"]["steps"] = 2
    if "codec" in settings:  # There are fewer training embeddings than buckets.
        for part in (settings["codec"], settings["network"]["init_args"]):
            part |= {"num_buckets": 16, "num_dot_buckets": 4}
    return config


def shrink_sweep(plan: dict[str, Any]) -> dict[str, Any]:
    """A sweep's YAML with few captions, two steps and one value of each setting."""
    points = [
        {k: v[:1] if isinstance(v, list) and k != "conditions" else v for k, v in p.items()} for p in plan["points"]
    ]
    small = [{k: 2 if k.endswith(".steps") else v for k, v in point.items()} for point in points]
    fixed = {k: 2 if k.endswith(".steps") else v for k, v in plan.get("fixed", {}).items()}
    return plan | {"captions": 4, "per_caption": 2, "bootstrap": 2, "points": small, "fixed": fixed}


def write_quickstart(folder: Path) -> Path:
    """The quickstart's files, all of its stages with two steps each, in `folder`; returns the suite's path there."""
    own = folder / "experiments" / "quickstart"
    protocols = folder / "experiments" / "protocols"
    for path in (own, protocols):
        path.mkdir(parents=True)
    for path in QUICKSTART.glob("*.yaml"):
        if path.name != "suite.yaml":
            (own / path.name).write_text(dumped(shrink(read(path))))
    for name in PROTOCOLS:
        path = QUICKSTART.parent / "protocols" / f"{name}.yaml"
        (protocols / path.name).write_text(dumped(shrink_sweep(read(path))))
    suite = (QUICKSTART / "suite.yaml").read_text()
    suite = re.sub(r"--captions 2048", "--captions 12", re.sub(r"--captions 256", "--captions 4", suite))
    # All figures have their own tests; one is enough to see the stage run and the report read what it leaves.
    suite = suite.replace("gallery {run}", "gallery {run} --only inpaint").replace("ns/text_diff", "ns/inpaint")
    (own / "suite.yaml").write_text(
        re.sub(r"(--reference \{run\}/samples/reference)(?!_)", r"--bootstrap 10 \1", suite)
    )
    return own / "suite.yaml"


def write_stage(folder: Path, stage: str, trainer: dict[str, Any], data: dict[str, Any], /, **more: Any) -> Path:
    """One stage's YAML, made small, in `folder`.

    Args:
        folder: what runs/quickstart/embeddings is relative to.
        stage: one of STAGES.
        trainer, data: settings that replace those of the YAML.
        more: further top-level settings, or other ones.
    """
    config = shrink(read(QUICKSTART / f"{stage}.yaml"))
    config["trainer"] |= trainer
    config["data"]["init_args"] |= data
    if stage == "diffusion_prior":
        config["model"]["init_args"]["statistics_samples"] = 64
    path = folder / f"{stage}.yaml"
    path.write_text(dumped({**config, **more}))
    return path


def read(path: Path) -> dict[str, Any]:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def dumped(config: dict[str, Any]) -> str:
    """As YAML."""
    return yaml.safe_dump(config, sort_keys=False)
