"""The YAMLs of a checkout's quickstart with fewer steps and pictures; the networks stay as they are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.trials.small import write_quickstart
from modules.aliases import today

STAGES = ("clip", "linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler")
JUDGES = ("eval_clip", "classifier")
SIZES = {"train_size": 1024, "val_size": 256, "test_size": 256}
LOGGERS = ("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.CSVLogger")
"""The first one takes pictures, the second one's numbers can be compared."""
VERSION = 1
"""Raise it when these YAMLs change: results that were made with others are made anew."""
FIXED: dict[str, dict[str, Any]] = {
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 10, "limit_val_batches": 2},
    "checkpoint": {"every_minutes": 600, "keep": 2},
}
SWEEPS = ("sweep_settings.yaml", "sweep_settings_prior.yaml")
"""Files beside this one: sweeps over settings that no other step of the trial has."""


@dataclass(frozen=True)
class Size:
    """How large the trial is.

    Attributes:
        steps: of each training, at most.
        real: whether data have the sizes in the YAMLs; otherwise SIZES at most.
    """

    steps: int = 60
    real: bool = False

    def settings(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "sizes": None if self.real else SIZES, "version": VERSION}


def write_configs(checkout: Path, folder: Path, size: Size) -> None:
    """Write the YAMLs of stages, data and sweeps, from those of a checkout, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    quickstart = checkout / "experiments" / "quickstart"
    for name in (*STAGES, *JUDGES):
        config = stage_config(yaml.safe_load((quickstart / f"{name}.yaml").read_text(encoding="utf-8")), name, size)
        write(folder / f"{name}.yaml", config)
    data = yaml.safe_load((quickstart / "data.yaml").read_text(encoding="utf-8"))
    write(folder / "data.yaml", data if size.real else everywhere(data, smaller))
    for name in SWEEPS:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)


def take_configs(older: Path, folder: Path) -> None:
    """Copy the older version's YAMLs and captions into a folder, with class paths as they are today.

    Both versions train by one recipe, also where the quickstart's own YAMLs have become others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in older.iterdir():
        if path.suffix == ".yaml":
            write(folder / path.name, today(yaml.safe_load(path.read_text(encoding="utf-8"))))
        else:
            shutil.copyfile(path, folder / path.name)


def stage_config(config: dict[str, Any], name: str, size: Size) -> dict[str, Any]:
    """A stage's YAML with fewer steps and a checkpoint at half of them.

    Learning rates, averages and all else that depends on the number of steps follow from `max_steps`.
    """
    config = config if size.real else everywhere(config, smaller)
    steps = min(size.steps, int(config["trainer"]["max_steps"]))
    for key, values in FIXED.items():
        config[key] = {**config.get(key, {}), **values}
    half = max(1, steps // 2)
    folder = f"train/{name}"
    place = {"save_dir": folder, "name": "", "version": ""}
    config["trainer"] |= {"max_steps": steps, "val_check_interval": half, "default_root_dir": folder}
    config["trainer"]["logger"] = [{"class_path": logger, "init_args": dict(place)} for logger in LOGGERS]
    config["checkpoint"]["every_n_train_steps"] = half
    return config


def everywhere(content: Any, change: Callable[[str, Any], Any]) -> Any:
    """A nest in which `change(key, value)` stands for each value of a mapping, at any depth."""
    if isinstance(content, dict):
        return {key: change(key, everywhere(value, change)) for key, value in content.items()}
    return [everywhere(value, change) for value in content] if isinstance(content, list) else content


def smaller(key: str, value: Any) -> Any:
    """The size of a split, SIZES at most."""
    return min(value, SIZES[key]) if key in SIZES and isinstance(value, int) else value


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a YAML file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def write_suite(checkout: Path, folder: Path) -> None:
    """Write the small quickstart of a checkout into a folder; its own code does it."""
    if checkout.resolve() == Path(__file__).resolve().parents[3]:
        write_quickstart(folder)
        return
    code = f"from pathlib import Path; from benchmarks.small import write_quickstart as w; w(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)
