"""Released files, read as data: safetensors, and pickles of tensors alone; configs are JSON. Nothing of them is run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from modules.errors import InputError
from modules.untrusted.pickles import load_plain
from modules.untrusted.reading import printable, read_json
from modules.untrusted.weights import check_finite, check_header

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "open_clip_model")
"""What diffusers, transformers and open_clip call a file of weights, without variant and suffix."""

CONVERT = (
    'On a machine where you trust the file, write its tensors alone: python -c "import torch; from safetensors.torch '
    "import save_file; x = torch.{load}; x = x.get('state_dict', x); "
    "save_file({{k: v.contiguous() for k, v in x.items() if torch.is_tensor(v)}}, '{stem}.safetensors')\", and put "
    "that in its place"
)
PICKLE, SCRIPT = "load('{0}', map_location='cpu', weights_only=False)", "jit.load('{0}', 'cpu').state_dict()"
"""How torch reads a pickle that holds more than tensors, and a TorchScript archive; both may run code."""


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is missing, or no object.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings")
    return content


def component(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder of diffusers' or transformers' layout; safetensors before pickles, whole before fp16.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    for suffix in ("safetensors", "bin"):
        for variant in ("", ".fp16", ".non_ema"):
            for stem in STEMS:
                path = folder / f"{stem}{variant}.{suffix}"
                if path.is_file():
                    return tensors_of(path)
                parts = folder / f"{stem}.{suffix}.index{variant}.json"
                if parts.is_file():
                    return _sharded(parts)
    raise InputError(
        f"{folder} holds no weights: {STEMS[0]}.safetensors or {STEMS[1]}.safetensors, or the same as .bin"
    )


def _sharded(index: Path) -> dict[str, Tensor]:
    places = read_config(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index} has no weight_map of tensors and files")
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise InputError(f"{index}: {printable(name)} is no name of a file beside it")
        found |= tensors_of(index.parent / name)
    return found


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickle that holds nothing else; "state_dict" is gone into.

    They are mapped from the file where that can be done, so that they take memory when they are read.

    Raises:
        InputError: the file is missing or damaged, or holds more than tensors; says how to convert it.
    """
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except (SafetensorError, OSError, EOFError) as error:
        raise InputError(
            f"{path} is damaged ({printable(' '.join(str(error).split())[:200])}): get it again"
        ) from error
    check_finite(found, path)
    return found


def _safetensors(path: Path) -> dict[str, Tensor]:
    check_header(path)
    return load_file(path)


def _pickle(path: Path) -> dict[str, Tensor]:
    """By torch's own unpickler, which makes tensors, numbers, texts and containers, and refuses all else."""
    try:
        content = _loaded(path)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors, and nothing of it is run. {_way(path, PICKLE)}") from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise InputError(f"{path} is a TorchScript program, and is not run. {_way(path, SCRIPT)}") from error
        raise InputError(
            f"{path} is damaged ({printable(' '.join(str(error).split())[:200])}): get it again"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if isinstance(content, (tuple, list)) and all(isinstance(x, Tensor) for x in content):
        return {str(k): x for k, x in enumerate(content)}
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _way(path: Path, load: str) -> str:
    return CONVERT.format(load=load.format(printable(str(path))), stem=printable(path.stem))


def _loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of a TorchScript archive torch warns before it refuses it.
        try:
            return load_plain(path, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
        return load_plain(path)  # A file of torch before 1.6 has no map.


def first_file(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The first file that a pattern finds, a safetensors file before others of its name."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern), key=lambda path: (path.suffix != ".safetensors", path.name))
        files = [path for path in found if path.is_file()]
        if files:
            return files[0]
    return None


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins so, without it; all, if none does."""
    found = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    return found or dict(tensors)
