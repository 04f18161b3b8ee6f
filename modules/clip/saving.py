"""Writes a pretrained CLIP as a folder that a run samples with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from modules.clip.folder import CONFIG_FILE, WEIGHTS_FILE
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError
from modules.models.exports import write_weights


def save_clip(clip: FrozenCLIP, name: str, folder: Path) -> None:
    """Write the CLIP of an open_clip architecture in open_clip's own layout: RUN/clip/export is what a run draws with.

    Args:
        clip: read by that name, with pretrained weights.
        name: of the architecture, such as "ViT-B-32".
        folder: to write; a CLIP that is there is replaced.

    Raises:
        InputError: open_clip knows no such architecture, or the folder gives other embeddings than the CLIP.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(f"{name} is no architecture of open_clip, so its CLIP can't be written to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": config, "preprocess_cfg": _plain(open_clip.get_model_preprocess_cfg(clip.model))}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_weights(clip.model.state_dict(), folder / WEIGHTS_FILE)
    _check_same(clip, folder)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the pictures that JSON can hold, without those that are not set."""
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return {key: value for key, value in lists.items() if value is not None}


def _check_same(clip: FrozenCLIP, folder: Path) -> None:
    """Weights alone do not say which activation they were trained with (quick_gelu): embeddings do."""
    again = FrozenCLIP(str(folder))
    captions, picture = ["a red circle"], torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    here = next(clip.parameters()).device
    with torch.no_grad():
        pairs = (
            (clip.encode_text(clip.tokenize(captions).to(here)), again.encode_text(again.tokenize(captions))),
            (clip.encode_image(picture.to(here)), again.encode_image(picture)),
        )
    if any(not torch.allclose(one.cpu(), other, atol=1e-4) for one, other in pairs):
        raise InputError(
            f"{folder} gives other embeddings than the CLIP that was written: name its CLIP folder instead"
        )
