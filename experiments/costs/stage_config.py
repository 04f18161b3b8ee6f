"""Configs of stages, as the tables of a paper's hyperparameters read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.console.configs import check_config_file
from experiments.training.config import read as read_config
from modules.errors import InputError


def stage_config(path: Path, stages: Sequence[str]) -> dict[str, Any]:
    """What `unclip fit` makes of a stage's YAML: defaults included, references to other settings resolved.

    Args:
        path: the YAML.
        stages: whose YAMLs its folder should have, for the message.

    Raises:
        InputError: there is none, or it is not the config of a stage.
    """
    if not path.is_file():
        raise InputError(f"no {path}: --folder names a folder with {', '.join(f'{stage}.yaml' for stage in stages)}")
    check_config_file(path)
    try:
        return read_config(["--config", str(path)])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
