"""Trained stages as files: export/config.yaml and export/model.safetensors, read without Lightning."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.clip import origin as clip_origin
from modules.diffusion.analytic import ScoreStatistics
from modules.errors import InputError
from modules.models.configs import STATISTICS, Objective, SamplerConfig
from modules.models.embedding_codec import EmbeddingCodec


@dataclass(frozen=True)
class StoredStage:
    """One trained stage, ready to sample from.

    Attributes:
        network: in evaluation mode, without gradients, with the averaged weights.
        settings: the stage's other init_args, the records among them built: objective, sampler, codec.
        extra: tensors of the file that are not the network's, by name.
        fingerprint: hash of the file of weights.
        clip_fingerprint: of the CLIP on whose embeddings it was trained; None where that is not recorded.
    """

    network: Any
    settings: dict[str, Any]
    extra: dict[str, Tensor]
    fingerprint: str
    clip_fingerprint: str | None = None

    @property
    def statistics(self) -> ScoreStatistics | None:
        """The score's statistics, if the stage has been trained to be sampled with Analytic-DPM."""
        found = {k.removeprefix(STATISTICS): v for k, v in self.extra.items() if k.startswith(STATISTICS)}
        return ScoreStatistics.from_tensors(found) if found else None


WEIGHTS = ("model.safetensors", "open_clip_model.safetensors")
"""A stage's weights; a CLIP's have the name that open_clip looks for."""


def export_folder(folder: str | Path) -> Path:
    """Where a stage's weights lie: STAGE/export of a run, or STAGE itself in a folder that `unclip export` made."""
    path = Path(folder)
    return path / "export" if (path / "export").is_dir() else path


def weights_file(folder: str | Path) -> Path:
    """The weights of a stage's run folder or export; the path may not exist."""
    path = export_folder(folder)
    return next((path / name for name in WEIGHTS if (path / name).is_file()), path / WEIGHTS[0])


def is_export(folder: str | Path) -> bool:
    """Whether there are weights of a trained stage."""
    return weights_file(folder).is_file()


def load_stage(folder: str | Path) -> StoredStage:
    """Read a stage's export.

    Args:
        folder: the stage's run folder, or its export.

    Raises:
        InputError: no export there, or one whose weights are unreadable or of another network.
    """
    path = export_folder(folder)
    try:
        about = yaml.safe_load((path / "config.yaml").read_text())
        config = about["init_args"]
        tensors = load_file(path / "model.safetensors")
    except OSError as error:
        raise InputError(
            f"no trained stage at {folder} ({error.filename or path}): train it with `unclip fit`"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({error!r}): train this stage again") from error
    settings = _build(path, config)
    network = settings.pop("network")
    try:
        missing, extra = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights are of another network than config.yaml's ({error})") from error
    if missing:
        raise InputError(f"{path}: the weights lack {missing[0]} and {len(missing) - 1} more of config.yaml's network")
    if (config.get("training") or {}).get("channels_last"):
        network.to(memory_format=torch.channels_last)
    return StoredStage(
        network.eval().requires_grad_(False),
        settings,
        {name: tensors[name] for name in extra},
        hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()[:12],
        about.get(clip_origin.KEY),
    )


def _build(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The init_args with networks and records made, by the same rules as LightningCLI makes them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    types = {"objective": Objective, "sampler": SamplerConfig}
    here = [name for name in types if name in config]
    for name in here:
        parser.add_argument(f"--{name}", type=types[name])
    if "codec" in config:
        parser.add_subclass_arguments(EmbeddingCodec, "codec")
        here.append("codec")
    try:
        parsed = parser.parse_object({name: config[name] for name in ["network", *here]})
        made = parser.instantiate(parsed)
    except Exception as error:
        raise InputError(f"{path / 'config.yaml'}: {' '.join(str(error).split())}") from error
    plain = {key: value for key, value in config.items() if key not in ("optimizer", "training")}
    return {**plain, **{name: made[name] for name in ["network", *here]}}


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; after any failure `path` is as it was.

    Raises:
        OSError: they could not be written (ENOSPC for a full disk).
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors' own files are for their owner only
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
        temporary.chmod(mode)
        temporary.replace(path)
    except SafetensorError as error:
        # safetensors hides the system's error in one of its own.
        number = re.search(r"(?:os error|code:) (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never there
            temporary.unlink()
