"""A CLIP's folder, checked before open_clip reads it: what its config may ask for, and what its weights are.

open_clip builds what open_clip_config.json says: text towers and tokenisers of transformers, by any name and with any
argument (`trust_remote_code` among them), and vision towers of timm. From a folder only open_clip's own towers and
timm's built-in ones are taken, and a tokeniser runs no code that a folder brings.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from modules.clip.lean_import import import_open_clip
from modules.errors import InputError
from modules.networks.on_meta import on_meta
from modules.shipped import PREFIX, stage_place
from modules.untrusted.allowed import class_named, made, plain
from modules.untrusted.reading import printable, read_json
from modules.untrusted.weights import at_most_parameters, check_finite, check_shapes, check_tensors, header_of

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"

TOKENIZER_KEY = "tokenizer"  # Beside open_clip's own keys, which ignores it.

EMBEDDINGS_KEY = "embeddings"
"""Likewise: "raw" for a CLIP whose embeddings are used as its projections give them; otherwise they have unit norm."""

REFUSED = {
    "hf_model_name": "a text tower of transformers",
    "multimodal_cfg": "a captioner (CoCa)",
}
"""What other CLIPs' folders may hold and is not read from a folder; by name open_clip loads them."""

MODEL_KEYS: dict[str, Any] = {
    "embed_dim": int,
    "quick_gelu": bool,
    "custom_text": bool,
    "init_logit_scale": float,
    "init_logit_bias": float | None,
    "nonscalar_logit_scale": bool,
    "output_dict": bool,
}
TOKENIZER_KEYS = {"clean": str, "strip_sep_token": bool}
PREPROCESS_KEYS: dict[str, Any] = {
    "size": int | tuple[int, int],
    "mode": str,
    "mean": tuple[float, float, float],
    "std": tuple[float, float, float],
    "interpolation": str,
    "resize_mode": str,
    "fill_color": int,
}
MAX_SIDE = 4096
"""Pixels of the pictures that a CLIP sees."""
MAX_CONTEXT = 4096
"""Tokens of a caption; open_clip's CLIPs have 77 or 64."""


def clip_folder(name: str | Path) -> str:
    """The folder that holds a CLIP's files, for every name that one may have.

    Args:
        name: a CLIP's stage, as RUN/clip, which holds them in `export`; `shipped:NAME` or `shipped:NAME/clip`, a CLIP
            that comes with the package; any other name is left as it is.

    Raises:
        InputError: no weights of that name come with the package.
    """
    if str(name).startswith(PREFIX):
        place = stage_place(str(name))
        return str(place / "clip" if (place / "clip").is_dir() else place)
    export = Path(name) / "export"
    return str(export) if (export / CONFIG_FILE).is_file() else str(name)


def check_config(folder: Path) -> dict[str, Any]:
    """open_clip_config.json, if all that it asks for may be built.

    Raises:
        InputError: it is missing or damaged, or a setting is not on the list; its name is said.
    """
    path = folder / CONFIG_FILE
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    model = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise InputError(f"{path} is damaged: it has no model_cfg; train or export that CLIP again")
    try:
        _check_model(model)
        _check_preprocess(content.get("preprocess_cfg") or {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    found: dict[str, Any] = content
    return found


def _check_model(model: dict[str, Any]) -> None:
    import_open_clip()
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    text, vision = (_section(model, name) for name in ("text_cfg", "vision_cfg"))
    for key, what in REFUSED.items():
        if model.get(key) or text.get(key):
            raise InputError(f"{key}: {what} is not read from a folder; name the CLIP as open_clip does")
    for key, value in model.items():
        if key not in ("text_cfg", "vision_cfg"):
            _allow(MODEL_KEYS, key, value, "model_cfg")
    for name, section, kind in (("text_cfg", text, CLIPTextCfg), ("vision_cfg", vision, CLIPVisionCfg)):
        known = {field.name for field in dataclasses.fields(kind)}
        for key, value in section.items():
            if key not in known:
                raise InputError(f"model_cfg.{name}: Option '{printable(key[:60])}' is not known")
            plain(value, f"model_cfg.{name}.{key}")
            if isinstance(value, dict) and key != "tokenizer_kwargs":
                for inner, part in value.items():
                    made(float | bool | str | None, part, f"model_cfg.{name}.{key}.{inner}", class_named)
    more = text.get("tokenizer_kwargs") or {}
    if not isinstance(more, dict):
        raise InputError("model_cfg.text_cfg.tokenizer_kwargs must be a mapping")
    for key, value in more.items():
        _allow(TOKENIZER_KEYS, key, value, "model_cfg.text_cfg.tokenizer_kwargs")
    _check_sizes("model_cfg.vision_cfg.image_size", vision.get("image_size"), MAX_SIDE)
    _check_sizes("model_cfg.text_cfg.context_length", text.get("context_length"), MAX_CONTEXT)
    timm = vision.get("timm_model_name")
    if timm and not re.fullmatch(r"[a-z0-9_]+", str(timm)):
        raise InputError(f"timm_model_name {printable(str(timm)[:60])!r} is no architecture that timm itself has")
    if vision.get("timm_model_pretrained") not in (None, False):
        raise InputError("timm_model_pretrained: a folder has its own weights; leave it out")


def _check_sizes(name: str, value: Any, most: int) -> None:
    """Refuse a size, or one of several, that no CLIP has: a mask or a picture of it would fill the memory."""
    sizes = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not all(type(size) is int and 1 <= size <= most for size in sizes):
        raise InputError(f"{name} must be 1 to {most}, found {printable(repr(value)[:60])}")


def _section(model: dict[str, Any], name: str) -> dict[str, Any]:
    found = model.get(name)
    if not isinstance(found, dict):
        raise InputError(f"model_cfg.{name} must be a mapping")
    return found


def _check_preprocess(section: Any) -> None:
    if not isinstance(section, dict):
        raise InputError("preprocess_cfg must be a mapping")
    for key, value in section.items():
        found = _allow(PREPROCESS_KEYS, key, value, "preprocess_cfg")
        sides = found if isinstance(found, tuple) else (found,)
        if key == "size" and not all(1 <= side <= MAX_SIDE for side in sides):
            raise InputError(f"preprocess_cfg.size must be 1 to {MAX_SIDE} pixels, found {found}")
        if key == "std" and not all(side > 0 for side in sides):
            raise InputError(f"preprocess_cfg.std must be above 0, found {found}")


def _allow(allowed: dict[str, Any], key: str, value: Any, where: str) -> Any:
    if key not in allowed:
        raise InputError(f"{where}: Option '{printable(str(key)[:60])}' is not accepted from a folder")
    return made(allowed[key], value, f"{where}.{key}", class_named)


def check_folder(folder: Path, own: bool) -> None:
    """Build a CLIP as shapes alone, and compare it with the header of its weights; nothing large is allocated.

    Args:
        folder: whose config `check_config` has passed.
        own: whether it is one of ours, so that every tensor's name, shape and dtype is known.

    Raises:
        InputError: a tensor is missing, extra or of another kind; or the network is larger than its file.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():  # Another name, as open_clip's own folders have: it says if there is none.
        return
    with one_line(str(folder), "train or export that CLIP again"):
        header = header_of(path)
        with at_most_parameters(2 * len(header) + 64):
            model = shapes_of(folder)
    numbers = sum(tensor.numel() for tensor in header.values())
    if own:
        check_tensors(model.state_dict(), header, path)
    else:
        check_shapes(sum(parameter.numel() for parameter in model.parameters()), numbers, path)


def shapes_of(folder: Path) -> torch.nn.Module:
    """The network of a CLIP's folder on the meta device, without its weights.

    open_clip warns that such a network is random, which frightens people whose weights come a line later.
    """
    open_clip = import_open_clip()

    def of_something_else(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    root, handler = logging.getLogger(), logging.NullHandler()  # Without a handler, the warning would set one up.
    root.addFilter(of_something_else)
    root.addHandler(handler)
    try:
        with on_meta():
            model: torch.nn.Module = open_clip.create_model(f"local-dir:{folder}", load_weights=False, device="meta")
    finally:
        root.removeHandler(handler)
        root.removeFilter(of_something_else)
    return model


@contextmanager
def one_line(name: str, hint: str) -> Iterator[None]:
    """Turns what open_clip, safetensors and pickle raise in the block into one line.

    Raises:
        InputError: names the CLIP and says `hint`.
    """
    try:
        yield
    except InputError:
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        IndexError,
        RecursionError,
        StopIteration,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = printable(" ".join(str(error).split("\n\n")[0].split())[:300])
        if isinstance(error, pickle.UnpicklingError):
            reason = "its file is a pickle that holds more than tensors, and is not run"
        raise InputError(f"the CLIP {name} can't be loaded: {reason}; {hint}") from error


def check_loaded(model: torch.nn.Module, folder: str) -> None:
    """Refuse a CLIP with weights that are not finite, by name."""
    check_finite(model.state_dict(), Path(folder))
