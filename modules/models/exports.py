"""Trained models as files: export/config.yaml and export/model.safetensors, read without Lightning."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modules.aliases import MODELS, today
from modules.clip import origin
from modules.errors import InputError
from modules.models.base import Model, field_names
from modules.networks.group_norm import to_channels_last
from modules.networks.on_meta import on_meta
from modules.placement.precision import narrowed
from modules.shipped import stage_place
from modules.untrusted.allowed import Resolve, class_named, made
from modules.untrusted.reading import printable, read_yaml, reason
from modules.untrusted.weights import at_most_parameters, check_tensors, read_weights, widened
from modules.untrusted.writing import clear_way

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
    """The folder of a stage's weights: STAGE/export of a run, or STAGE itself in a folder that `unclip export` made.

    `shipped:NAME/STAGE` names a stage of the weights that come with the package.
    """
    path = stage_place(str(folder))
    return path / "export" if (path / "export").is_dir() else path


def weights_file(folder: str | Path) -> Path:
    """The weights of a stage's run folder or export; the path may not exist."""
    path = export_folder(folder)
    return next((path / name for name in WEIGHTS if (path / name).is_file()), path / WEIGHTS[0])


def is_export(folder: str | Path) -> bool:
    """Whether there are weights of a trained stage."""
    return weights_file(folder).is_file()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of an export's config.yaml: class_path, init_args, and the entries that training added.

    Raises:
        InputError: no export there, or one that cannot be read.
    """
    path = export_folder(folder)
    try:
        about = today(read_yaml(path / "config.yaml"))
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
        InputError: there is no export, or its class does not exist.
    """
    about = read_config(folder)
    path = about.get("model") or MODELS.get(str(about.get("class_path")))
    where = export_folder(folder) / "config.yaml"
    if not isinstance(path, str):
        raise InputError(
            f"{where}: {printable(str(about.get('class_path'))[:100])} is no LightningModule whose model is known; "
            "export it anew, so that the file says its model"
        )
    try:
        return class_named(path, Model, package=path.partition(".")[0])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def load_model(
    folder: str | Path,
    kind: type[M] = Model,  # type: ignore[assignment]
    half: bool = False,
    known: str | None = None,
) -> Stored[M]:
    """Read an export's model.

    Args:
        folder: the stage's run folder, or its export.
        kind: class that the model must be of.
        half: hold matrices in bfloat16; see `modules.placement.precision`, which lets the network compute so.
        known: the fingerprint, where this process has read the file before: it is not looked through again.

    Raises:
        InputError: no export there, one of another kind of model, or one whose weights are unreadable or of another
            network.
    """
    path, about, found = export_folder(folder), read_config(folder), model_class(folder)
    if not issubclass(found, kind):
        raise InputError(f"{folder} holds a {found.__name__}, where a {kind.__name__} is needed: name another stage")
    config = about["init_args"]
    try:
        tensors, fingerprint = read_weights(path / "model.safetensors", known)
    except OSError as error:
        raise _absent(folder, path, error) from error
    except SafetensorError as error:
        raise _damaged(path, error) from error
    with building(path, len(tensors)), on_meta():
        model = build(found, config)
    model = with_weights(model, tensors, path, half)
    training = config.get("training")
    if isinstance(training, dict) and training.get("channels_last") is True:
        to_channels_last(model.network, training.get("fast_norms") is True)
    model.network.eval().requires_grad_(False)
    origin_given = about.get(origin.KEY)
    return Stored(model, fingerprint, None if origin_given is None else str(origin_given))


MAX_TOLD = 1000
"""Characters of what a library says about an export's config."""


@contextlib.contextmanager
def building(path: Path, tensors: int) -> Iterator[None]:
    """Bounds what an export's config builds in the block, and says what is wrong with it.

    Args:
        path: the export.
        tensors: how many tensors its weights file has. The network cannot have more parameters (some are shared).

    Raises:
        InputError: the network has more, or the config is not one of the model.
    """
    try:
        with at_most_parameters(2 * tensors + 64):
            yield
    except Exception as error:
        told, _, _ = " ".join(str(error).split()).partition(" Exception raised from ")  # torch's frames in C++ follow
        raise InputError(f"{path / 'config.yaml'}: {told[:MAX_TOLD]}") from error


def with_weights(model: M, tensors: Mapping[str, Tensor], path: Path, half: bool = False) -> M:
    """A model made on the meta device, with the tensors of a file; with `half`, its matrices in bfloat16.

    Raises:
        InputError: a tensor is missing, extra, or of another shape or dtype; its name is said.
    """
    network = model.network
    expected: dict[str, Tensor] = dict(network.state_dict())
    own = {name: tensor for name, tensor in tensors.items() if name in expected}
    beside = {name: tensor for name, tensor in tensors.items() if name not in expected}
    check_tensors(expected, own, path)
    try:
        found = narrowed(network, own) if half else widened(expected, own)
        network.load_state_dict(found, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights are of another network than config.yaml's ({error})") from error
    left = next(
        (name for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_meta), None
    )
    if left is not None:
        raise InputError(f"{path}: no file of weights holds {left} of the network: make it a persistent buffer")
    before = model.tensors()
    try:
        model = model.with_tensors(beside)
    except (RuntimeError, KeyError, ValueError) as error:
        named = ", ".join(printable(name) for name in sorted(beside)[:3])
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is damaged: the tensors beside the network's ({named}) are incomplete ({reason}); train this "
            "stage again"
        ) from error
    check_tensors(before or model.tensors(), beside, path)
    return model


def _absent(folder: str | Path, path: Path, error: OSError) -> InputError:
    return InputError(f"no trained stage at {folder} ({error.filename or path}): train it with `unclip fit`")


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({reason(error)}): train this stage again")


def build(kind: type[M], config: dict[str, Any], resolve: Resolve | None = None) -> M:
    """The model of a LightningModule's init_args; only what `modules.untrusted.allowed` lets through is built.

    Args:
        kind: the model's class.
        config: the init_args; those that are no fields of the model are not looked at.
        resolve: finds the classes that it names; by default those that an export may name.

    Raises:
        InputError: a class or a value that is not allowed, by name.
        ValueError, TypeError: of the constructors, for settings that do not do.
    """
    root = kind.__module__.partition(".")[0]
    resolve = resolve or partial(class_named, package="" if root == "modules" else root)
    hints = get_type_hints(kind)
    names = [name for name in field_names(kind) if name in config and name not in kind.STATE]
    model = kind(**{name: made(hints[name], config[name], name, resolve) for name in names})
    model.check()
    return model


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; after any failure `path` is as it was.

    Raises:
        OSError: they could not be written (ENOSPC for a full disk).
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        clear_way(temporary)
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
