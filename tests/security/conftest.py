"""A copy of a run that a stranger may have changed, and a file beside it that nothing may read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file


@pytest.fixture
def sent(stored_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder as a stranger sends it; the working folder is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path(shutil.copytree(stored_run, tmp_path / "sent"))


@pytest.fixture
def config_of(sent: Path) -> Callable[[str, Callable[[dict[str, Any]], object]], Path]:
    """Changes the config.yaml of a stage's export; returns the stage's folder."""

    def edit(stage: str, change: Callable[[dict[str, Any]], object]) -> Path:
        path = sent / stage / "export" / "config.yaml"
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))
        return sent / stage

    return edit


@pytest.fixture
def weights_of(sent: Path) -> Callable[[str, Callable[[dict[str, Any]], object]], Path]:
    """Changes the tensors of a stage's export; returns the stage's folder."""

    def edit(stage: str, change: Callable[[dict[str, Any]], object]) -> Path:
        path = sent / stage / "export" / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        return sent / stage

    return edit


@pytest.fixture
def clip_config(sent: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Changes the open_clip_config.json of the run's CLIP; returns its folder."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Path:
        path = sent / "clip" / "export" / "open_clip_config.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return path.parent

    return edit
