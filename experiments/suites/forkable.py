"""Which stages can be forked from a process that has imported what they need, and what they need.

Those are commands `unclip` on one device: for every further device, Lightning starts the program again.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.console.configs import read_config
from experiments.suites.suite import Stage

AVAILABLE = sys.platform.startswith("linux")
"""Elsewhere a process does not die with the one that started it, or does not survive a fork."""
ONE_DEVICE = {"devices": ("None", "1"), "num_nodes": ("None", "1"), "strategy": ("None", "auto")}
"""Settings of a command or of `trainer`, with their values for one process."""
TRAINING = ("torch.utils.tensorboard",)
WORK = (*TRAINING, "modules.pipeline", "eval.measure", "eval.judges.judges", "open_clip")
"""What commands import when they are at work, and not when their module is imported; `fit` imports TRAINING alone."""


def forkable(stage: Stage, run: Path) -> bool:
    """Whether a stage can be forked: `unclip` on one device and one core, and its `fork` does not say otherwise.

    A process that has imported torch for one core's threads starts no others when it is forked.
    """
    words = stage.words(run)
    if not AVAILABLE or not stage.fork or stage.cores > 1 or words[:1] != ["unclip"]:
        return False
    return all(str(value) in ONE_DEVICE[key] for key, value in device_settings(stage, run))


def device_settings(stage: Stage, run: Path) -> Iterator[tuple[str, Any]]:
    """The settings of devices in a command and its configs: pairs of a key of ONE_DEVICE and its value."""
    for name in stage.configs(run):
        trainer = read_config(Path(name)).get("trainer")
        if isinstance(trainer, dict):
            yield from ((key, trainer[key]) for key in ONE_DEVICE if key in trainer)
    words = stage.words(run)
    for word, following in itertools.zip_longest(words, words[1:]):
        option, equals, value = word.partition("=")
        key = option.lstrip("-").replace("-", "_").removeprefix("trainer.").split(".")[0]
        if option.startswith("--") and key in ONE_DEVICE:
            yield key, value if equals else following


def imports_of(stages: Iterable[Stage], run: Path) -> list[str]:
    """What stages import: at work, the names of their commands, and the modules of the classes that configs name."""
    stages = list(stages)
    found: dict[str, None] = dict.fromkeys(TRAINING if all(stage.is_fit for stage in stages) else WORK)
    for stage in stages:
        found[stage.words(run)[1]] = None
        for name in stage.configs(run):
            found.update(dict.fromkeys(class_modules(read_config(Path(name)))))
    return list(found)


def class_modules(content: Any) -> Iterator[str]:
    """The modules of all that stands behind a `class_path` in a config."""
    if isinstance(content, dict):
        path = content.get("class_path")
        if isinstance(path, str) and "." in path:
            yield path.rpartition(".")[0]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from class_modules(part)
