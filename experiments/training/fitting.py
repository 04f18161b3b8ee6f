"""Whether a config's parts go together, found out before a run folder is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from experiments.console.errors import causes
from experiments.training.checkpoint_files import check_readable
from modules.errors import InputError
from modules.untrusted.reading import reason


@contextmanager
def constructing() -> Iterator[None]:
    """Turns what a class of the config says of its arguments into one line.

    jsonargparse wraps it in a list of all the types that the setting could have been of, with all of its values.

    Raises:
        InputError: a constructor has raised a ValueError or Lightning's MisconfigurationException, or lacks a package.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        *_, cause = causes(error)
        if isinstance(cause, ImportError):
            made = re.search(r"class_path '(?:\w+\.)*(\w+)'", str(error))
            raise InputError(f"{made[1] if made else 'config'}: {missing_package(cause)}") from error
        if cause is error or not isinstance(cause, (ValueError, MisconfigurationException)):
            raise
        if isinstance(cause, InputError):  # It says where.
            raise InputError(str(cause)) from error
        of_lightning = re.search(r"Namespace\(class_path='lightning\.(?:\w+\.)*(\w+)'", str(error))
        part = "data" if "DataModule'" in str(error) else "model"
        part = f"trainer: {of_lightning[1]}" if of_lightning else part
        raise InputError(f"{part}: {' '.join(str(cause).split())}") from error


def missing_package(error: ImportError) -> str:
    """'WandbLogger needs the package wandb: ...', from what Lightning or Python say of an import that has failed."""
    text = " ".join(str(error).split())
    named = re.search(
        r"[Rr]equirement '([\w.\[\]-]+)|No module named '([\w.]+)'|`([\w.-]+)` (?:is )?not installed", text
    )
    package = next((name for name in named.groups() if name), None) if named else error.name
    if package is None:
        return text
    package = package.partition(".")[0] if named and named[2] else package
    return f"the package {package!r} is needed and not installed: pip install {package}"


def check_checkpoint(path: Path | None, model: Any) -> None:
    """Refuse a checkpoint of another network; only its table of contents is read.

    Raises:
        InputError: it can't be read, holds no training state, or lacks a tensor of the model, holds another one, or one
            of another shape.
    """
    if path is None:
        return
    check_readable(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    held = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise InputError(f"checkpoint {str(path)!r} holds no training state; use another, or train anew")
    if not getattr(model, "strict_loading", True):
        return
    wanted = model.state_dict()
    found = next(_differences(held, wanted), None)
    if found is not None:
        raise InputError(
            f"checkpoint {str(path)!r} is of another stage or another network than this config's: {found}; give the "
            "checkpoint that goes with the config, or the config that goes with the checkpoint"
        )


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Turns what Lightning meets in a checkpoint that holds something else than training wrote into one line.

    Raises:
        InputError: a part of the checkpoint is missing or is none: names the checkpoint.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        files = (Path(frame.filename).name for frame in extract_tb(error.__traceback__))
        if path is None or "checkpoint_connector.py" not in files:
            raise
        raise InputError(
            f"checkpoint {str(path)!r} cannot be resumed ({reason(error)}): a part of it is not what training writes; "
            "use another, or train anew"
        ) from error


def _differences(held: dict[str, Tensor], wanted: dict[str, Tensor]) -> Iterator[str]:
    for name, tensor in wanted.items():
        if name not in held:
            yield f"it lacks {name}"
        elif held[name].shape != tensor.shape:
            yield f"{name} is {tuple(held[name].shape)} there and {tuple(tensor.shape)} here"
    for name in held.keys() - wanted.keys():
        yield f"it holds {name}, which the config's network has not"


def check_widths(model: Any, data: Any) -> None:
    """Refuse a network and embeddings of different widths.

    Raises:
        InputError: they differ, or the embeddings are not there.
    """
    wanted = getattr(getattr(model, "network", None), "embedding_dim", None)
    held = None if wanted is None else getattr(data, "embedding_dim", None)
    if held is not None and held != wanted:
        raise InputError(
            f"model.init_args.network.init_args.embedding_dim is {wanted}, the data's embeddings have {held} "
            "dimensions: make them equal, or name other embeddings"
        )
