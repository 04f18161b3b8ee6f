"""An imported stage as a stage's folder: export/ with weights and config, config.yaml for training on, a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from eval.files import replacing_folder
from experiments.importing.cards import CARD, Release, stage_card
from modules.clip.frozen import CONFIG_FILE, WEIGHTS_FILE, FrozenCLIP, caption_of
from modules.clip.origin import KEY
from modules.errors import InputError
from modules.models.exports import load_model, write_weights
from modules.pretrained.clip import ImportedCLIP
from modules.pretrained.stages import ImportedStage


def check_place(out: Path, names: list[str], overwrite: bool) -> None:
    """Refuse to write over a stage that is there.

    Raises:
        InputError: names the first one.
    """
    there = [name for name in names if (out / name).exists()]
    if there and not overwrite:
        raise InputError(f"{out / there[0]} exists; --overwrite replaces it, or name another --out")


def write_clip(out: Path, clip: ImportedCLIP, release: Release, dtype: str | None) -> FrozenCLIP:
    """Write RUN/clip, and read it as whatever draws with the run will read it."""
    with replacing_folder(out / "clip") as folder:
        export = folder / "export"
        export.mkdir()
        (export / CONFIG_FILE).write_text(json.dumps(clip.config, indent=1), encoding="utf-8")
        write_weights(stored(clip.tensors, dtype), export / WEIGHTS_FILE)
        if clip.words is not None:
            clip.words.save(export)
        found = FrozenCLIP(str(export))
        section = {"class_path": "modules.clip.CLIPTrainer", "init_args": {"model_cfg": clip.config["model_cfg"]}}
        _write(folder, release, "clip", section, export / WEIGHTS_FILE)
    return found


def write_stage(
    out: Path, name: str, stage: ImportedStage, clip: FrozenCLIP | None, release: Release, dtype: str | None
) -> None:
    """Write RUN/NAME, and load it once as whatever draws with the run will load it.

    Args:
        clip: what gives the empty caption; None for a stage that reads tokens of its own.

    Raises:
        InputError: the stage takes embeddings of another width than the CLIP's.
    """
    section = {"class_path": stage.class_path, "init_args": stage.settings}
    sees_pictures = stage.class_path == "modules.upsampler.Upsampler"
    clip = None if sees_pictures else clip
    if clip is not None:
        check_width(name, stage.settings["network"]["init_args"], clip)
    about = {**section, "model": stage.model, **({} if clip is None else {KEY: clip.fingerprint})}
    with replacing_folder(out / name) as folder:
        export = folder / "export"
        export.mkdir()
        tensors = stored(stage.tensors, dtype) | _empty(stage, clip)
        write_weights(tensors, export / "model.safetensors")
        (export / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
        del tensors
        load_model(export)
        _write(folder, release, name, section, export / "model.safetensors")


def check_width(name: str, network: Mapping[str, Any], clip: FrozenCLIP) -> None:
    """Refuse a stage whose embeddings have another width than the run's CLIP gives.

    Raises:
        InputError: says both.
    """
    width = network.get("embedding_dim")
    if width not in (None, clip.embedding_dim):
        raise InputError(
            f"{name} takes embeddings of {width} dimensions, the run's CLIP gives {clip.embedding_dim}: it is of "
            "another release, so name another --out, with the CLIP that it was trained on (--clip)"
        )


def _write(folder: Path, release: Release, name: str, section: Mapping[str, object], weights: Path) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": dict(section)}, sort_keys=False), encoding="utf-8")
    (folder / "export" / CARD).write_text(stage_card(release, name, section, weights), encoding="utf-8")


def stored(tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """The tensors as they are stored: matrices of that type, and the rest as it is; float64 becomes float32."""
    found = {}
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.dtype == torch.float64 else tensor
        half = dtype is not None and wide.is_floating_point() and wide.ndim > 1
        found[name] = wide.to(getattr(torch, str(dtype))) if half else wide
    return found


def _empty(stage: ImportedStage, clip: FrozenCLIP | None) -> dict[str, Tensor]:
    """The buffers of the empty caption, of a stage whose network has them."""
    network = stage.settings["network"]["init_args"]
    decoder, prior = "frozen_text" in network, network.get("conditioning", {}).get("null") == "empty_caption"
    if not (decoder or prior):
        return {}
    if clip is None:
        raise InputError("this stage needs its CLIP, for the empty caption: name one with --clip")
    with torch.inference_mode():
        caption = caption_of(clip, clip.tokenize([""]))
    dim, width = caption.z_t.shape[1], caption.features.shape[2]
    text = network["frozen_text"] if decoder else {**network, "z_t_dim": network["embedding_dim"]}
    wanted = text["z_t_dim"], text["feature_dim"]
    if (dim, width) != wanted:
        raise InputError(
            f"the CLIP gives embeddings of {dim} and features of {width} dimensions, the stage takes {wanted[0]} and "
            f"{wanted[1]}: name the CLIP that it was trained on (--clip)"
        )
    prefix = "text.empty." if decoder else "empty."
    parts = {"text": caption.features[0], "z_t": caption.z_t[0], "mask": caption.mask[0]}
    return {prefix + name: x.clone() for name, x in parts.items()}
