"""Trained models as files: export/config.yaml and export/model.safetensors, read without Lightning."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.aliases import MODELS, today
from modules.clip import origin
from modules.errors import InputError
from modules.models.base import Model, field_names

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Stored(Generic[M]):
    """A trained model as its export holds it.

    Attributes:
        model: with the averaged weights, its network in evaluation mode and without gradients.
        fingerprint: hash of the file of weights.
        clip_fingerprint: of the CLIP on whose embeddings it was trained; None where that is not recorded.
    """

    model: M
    fingerprint: str
    clip_fingerprint: str | None = None


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


def read_config(folder: str | Path) -> dict[str, Any]:
    """What an export's config.yaml says: class_path, init_args, and what training added.

    Raises:
        InputError: no export there, or one that cannot be read.
    """
    path = export_folder(folder)
    try:
        about = today(yaml.safe_load((path / "config.yaml").read_text()))
        if not isinstance(about["init_args"], dict):
            raise TypeError("init_args is no mapping")
    except OSError as error:
        raise _absent(folder, path, error) from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    found: dict[str, Any] = about
    return found


def model_class(folder: str | Path) -> type[Model]:
    """The class of the model in an export; nothing is built.

    Raises:
        InputError: no export there, or one of a class that there is not.
    """
    about = read_config(folder)
    path = about.get("model") or MODELS.get(str(about.get("class_path")))
    if path is None:
        raise InputError(
            f"{export_folder(folder) / 'config.yaml'}: {about.get('class_path')} is no LightningModule whose model is "
            "known; export it anew, so that the file says its model"
        )
    module, _, name = str(path).rpartition(".")
    root = module.partition(".")[0]
    if root != "modules" and root not in sys.modules:
        raise InputError(
            f"{export_folder(folder) / 'config.yaml'}: the model {path} is of another package, {root!r}, whose code "
            "would run: import that package first, if you trust it"
        )
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{export_folder(folder) / 'config.yaml'}: no class {path} ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, Model)):
        raise InputError(f"{export_folder(folder) / 'config.yaml'}: {path} is no model")
    return kind


def load_model(folder: str | Path, kind: type[M] = Model) -> Stored[M]:  # type: ignore[assignment]
    """Read an export's model.

    Args:
        folder: the stage's run folder, or its export.
        kind: class that the model must be of.

    Raises:
        InputError: no export there, one of another kind of model, or one whose weights are unreadable or of another
            network.
    """
    path, about, found = export_folder(folder), read_config(folder), model_class(folder)
    if not issubclass(found, kind):
        raise InputError(f"{folder} holds a {found.__name__}, where a {kind.__name__} is needed: name another stage")
    config = about["init_args"]
    try:
        tensors = load_file(path / "model.safetensors")
        fingerprint = file_hash(path / "model.safetensors")[:12]
    except OSError as error:
        raise _absent(folder, path, error) from error
    except SafetensorError as error:
        raise _damaged(path, error) from error
    try:
        with torch.device("meta"):  # The weights come from the file.
            model = build(found, config)
    except Exception as error:
        raise InputError(f"{path / 'config.yaml'}: {' '.join(str(error).split())}") from error
    network = model.network
    try:
        missing, extra = network.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights are of another network than config.yaml's ({error})") from error
    if missing:
        raise InputError(f"{path}: the weights lack {missing[0]} and {len(missing) - 1} more of config.yaml's network")
    if (config.get("training") or {}).get("channels_last"):
        network.to(memory_format=torch.channels_last)
    network.eval().requires_grad_(False)
    left = next(
        (name for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_meta), None
    )
    if left is not None:
        raise InputError(f"{path}: no file of weights holds {left} of the network: make it a persistent buffer")
    try:
        model = model.with_tensors({name: tensors[name] for name in extra})
    except (RuntimeError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    return Stored(model, fingerprint, about.get(origin.KEY))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _absent(folder: str | Path, path: Path, error: OSError) -> InputError:
    return InputError(f"no trained stage at {folder} ({error.filename or path}): train it with `unclip fit`")


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error!r}): train this stage again")


def build(kind: type[M], config: dict[str, Any]) -> M:
    """The model of a LightningModule's init_args, with networks and settings made by LightningCLI's rules.

    Raises:
        ValueError, TypeError, ArgumentError: of jsonargparse or of the constructors, for settings that do not do.
    """
    from jsonargparse import ArgumentParser

    hints = get_type_hints(kind)
    names = [name for name in field_names(kind) if name in config and name not in kind.STATE]
    parser = ArgumentParser(exit_on_error=False)
    for name in names:
        if isinstance(hints[name], type) and issubclass(hints[name], nn.Module):
            parser.add_subclass_arguments(hints[name], name)
        else:
            parser.add_argument(f"--{name}", type=hints[name])
    made = parser.instantiate(parser.parse_object({name: config[name] for name in names}))
    model = kind(**{name: made[name] for name in names})
    model.check()
    return model


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
