"""CLIPs: transformers' text and vision models as a folder of open_clip's, which `FrozenCLIP` reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modules.clip.folder import check_config
from modules.clip.frozen import load_tokenizer
from modules.clip.lean_import import import_open_clip
from modules.clip.word_tokenizer import VOCABULARY_FILE, WordTokenizer
from modules.errors import InputError
from modules.networks.on_meta import on_meta
from modules.pretrained.clip_keys import text_entries, vision_entries
from modules.pretrained.key_map import to_ours
from modules.pretrained.reading import component, read_config
from modules.pretrained.shapes import expect, number
from modules.untrusted.reading import printable
from modules.untrusted.weights import at_most_parameters

Embeddings = Literal["raw", "unit"]
"""How a CLIP's embeddings are used: as its projections give them, or with unit norm."""

ACTIVATIONS = {"quick_gelu": True, "gelu": False}
"""transformers' hidden_act -> open_clip's quick_gelu."""

OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


@dataclass(frozen=True)
class ImportedCLIP:
    """The content of a CLIP's folder: open_clip_config.json, the tensors by open_clip's names, and its words if any."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    words: WordTokenizer | None = None


def of_transformers(text: Path, vision: Path, preprocess: Path | None, embeddings: Embeddings) -> ImportedCLIP:
    """The CLIP of two folders of transformers' layout; they may be one, of a CLIPModel.

    Args:
        text, vision: folders with config.json and weights.
        preprocess: preprocessor_config.json; without one, OpenAI's values.
        embeddings: how the run's stages use them.

    Raises:
        InputError: a folder is missing or of another kind of model.
    """
    sections = [_section(folder, name) for folder, name in ((text, "text_config"), (vision, "vision_config"))]
    tensors = component(text)
    images = tensors if text == vision else component(vision)
    own = (
        {name: x for name, x in tensors.items() if name.startswith(("text_model.", "text_projection."))},
        {name: x for name, x in images.items() if name.startswith(("vision_model.", "visual_projection."))},
    )
    parts = [{k: x for k, x in part.items() if not k.endswith("position_ids")} for part in own]
    config = _config(sections[0], sections[1], [str(text), str(vision)])
    found: dict[str, Tensor] = {"logit_scale": tensors.get("logit_scale", torch.tensor(math.log(100.0)))}
    shapes = _shapes(config, len(tensors) + len(images))
    for part, entries, source in (
        (parts[0], text_entries(sections[0]["num_hidden_layers"]), text),
        (parts[1], vision_entries(sections[1]["num_hidden_layers"]), vision),
    ):
        names = {name for entry in entries for name in entry.ours}
        found |= to_ours(entries, part, {k: v for k, v in shapes.items() if k in names}, str(source))
    content = {"model_cfg": config, "preprocess_cfg": _preprocess(preprocess, sections[1]), "tokenizer": "bpe"}
    return ImportedCLIP({**content, "embeddings": embeddings}, found)


def _section(folder: Path, name: str) -> dict[str, Any]:
    config = read_config(folder / "config.json")
    section = config.get(name, config)
    found = {"projection_dim": config.get("projection_dim"), **section} if isinstance(section, dict) else {}
    if name in config and config.get("projection_dim") is not None:  # A CLIPModel's; its sections have a default.
        found["projection_dim"] = config["projection_dim"]
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    lost = next((key for key in (*needed, "projection_dim") if found.get(key) is None), None)
    if lost:
        raise InputError(f"{folder / 'config.json'} has no {lost}: it is no CLIP's of transformers")
    expect(found, {"layer_norm_eps": 1e-5}, str(folder / "config.json"))
    for key in (*needed[:-1], "projection_dim"):
        number(found, key, str(folder / "config.json"))
    return found


def _config(text: Mapping[str, Any], vision: Mapping[str, Any], sources: list[str]) -> dict[str, Any]:
    acts = [section["hidden_act"] for section in (text, vision)]
    if acts[0] != acts[1] or acts[0] not in ACTIVATIONS:
        raise InputError(
            f"{' and '.join(sources)}: hidden_act is {acts[0]} and {acts[1]}; a CLIP has one, of {ACTIVATIONS}"
        )
    if text["projection_dim"] != vision["projection_dim"]:
        raise InputError(
            f"{' and '.join(sources)}: they project to {text['projection_dim']} and {vision['projection_dim']}"
        )
    width, heads = vision["hidden_size"], vision["num_attention_heads"]
    return {
        "embed_dim": text["projection_dim"],
        "quick_gelu": ACTIVATIONS[acts[0]],
        "vision_cfg": {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 32),
            "layers": vision["num_hidden_layers"],
            "width": width,
            "head_width": width // heads,
            "mlp_ratio": vision["intermediate_size"] / width,
        },
        "text_cfg": {
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": text.get("vocab_size", 49408),
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }


RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that open_clip has, too."""


def _preprocess(path: Path | None, vision: Mapping[str, Any]) -> dict[str, Any]:
    """What a preprocessor_config.json says, as open_clip says it: the filter, and what becomes of pictures that are no
    squares.

    Raises:
        InputError: a step that open_clip's preprocessing has not.
    """
    config = read_config(path) if path is not None and path.is_file() else {}
    side = vision.get("image_size", 224)
    mean, std = config.get("image_mean") or OPENAI["mean"], config.get("image_std") or OPENAI["std"]
    resample, size = config.get("resample", 3), config.get("size", side)
    if resample not in RESAMPLE:
        raise InputError(
            f"{path}: resample is {printable(repr(resample)[:20])}; of Pillow's filters {RESAMPLE} are read"
        )
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if sides != {side}:
        raise InputError(f"{path}: size is {printable(repr(size)[:60])}, and the model takes {side} pixels a side")
    squash = isinstance(size, dict) and "shortest_edge" not in size
    mode = "squash" if squash else "shortest"
    return {"size": side, "mean": mean, "std": std, "interpolation": RESAMPLE[resample], "resize_mode": mode}


def _shapes(config: dict[str, Any], tensors: int) -> dict[str, torch.Size]:
    import_open_clip()
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    with on_meta(), at_most_parameters(2 * tensors + 64):
        model = CLIP(
            config["embed_dim"],
            CLIPVisionCfg(**config["vision_cfg"]),
            CLIPTextCfg(**config["text_cfg"]),
            quick_gelu=config["quick_gelu"],
        )
    return {name: x.shape for name, x in model.state_dict().items()}


def of_open_clip(folder: Path, embeddings: Embeddings) -> ImportedCLIP:
    """The CLIP of a folder of open_clip's layout; its config says whether it has QuickGELU.

    Raises:
        InputError: the folder asks for what is not read from one, or its weights cannot be read.
    """
    content = check_config(folder)
    model = content["model_cfg"]
    tensors = component(folder)
    kept = {key: model[key] for key in model if key != "tokenizer"}
    mine: dict[str, Any] = {key: content[key] for key in ("preprocess_cfg", "tokenizer") if key in content}
    has_words = content.get("tokenizer") == "words" or (folder / VOCABULARY_FILE).exists()
    tokenizer = load_tokenizer(folder) if has_words else None
    words = tokenizer if isinstance(tokenizer, WordTokenizer) else None
    return ImportedCLIP({"model_cfg": kept, **mine, "embeddings": embeddings}, tensors, words)
