"""A CLIP that open_clip knows by name, written as a folder: what `unclip sample` and the rest read as RUN/clip."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from modules.clip.folder import CONFIG_FILE, MODEL_KEYS, PREPROCESS_KEYS, REFUSED, TOKENIZER_KEY, WEIGHTS_FILE
from modules.clip.frozen import FrozenCLIP
from modules.clip.lean_import import import_open_clip
from modules.errors import InputError
from modules.models.exports import export_folder, write_weights
from modules.untrusted.writing import clear_way

ACTIVATION = "QuickGELU"
"""open_clip's class of OpenAI's activation."""


def save_clip(clip: FrozenCLIP, name_or_folder: str, stage: Path) -> Path:
    """Write a frozen CLIP as STAGE/export, an open_clip folder that `FrozenCLIP` reads back with the same fingerprint.

    The activation is written as the network has it, whatever the architecture's name says. Otherwise OpenAI's weights,
    which need QuickGELU, would embed wrongly and in silence when they are read from a file.

    Args:
        clip: to write.
        name_or_folder: what it was made by.
        stage: folder of a run's CLIP, as runs/mine/clip; if that CLIP is there already, nothing is written.

    Returns:
        STAGE/export.

    Raises:
        InputError: another CLIP is there; or one of a kind that is not read from a folder.
    """
    place = stage / "export"
    if export_folder(stage).joinpath(CONFIG_FILE).is_file():
        if FrozenCLIP(str(export_folder(stage))).fingerprint == clip.fingerprint:
            return export_folder(stage)
        raise InputError(f"{stage} holds another CLIP: name another run for this one")
    given = Path(name_or_folder)
    place.mkdir(parents=True, exist_ok=True)
    if given.is_dir():
        for path in sorted(given.iterdir()):
            if path.is_symlink() and not path.resolve().is_relative_to(given.resolve()) and not _of_the_hub(path):
                raise InputError(f"{path} is a link that leads out of the CLIP's folder: put the file itself there")
            if path.is_file():
                clear_way(place / path.name)
                shutil.copyfile(path, place / path.name)
        return place
    content = {
        "model_cfg": _model_config(name_or_folder, clip.model),
        "preprocess_cfg": _preprocessing(clip.model),
        TOKENIZER_KEY: "bpe",
    }
    write_weights(clip.model.state_dict(), place / WEIGHTS_FILE)
    clear_way(place / CONFIG_FILE)
    (place / CONFIG_FILE).write_text(json.dumps(content, indent=1))
    return place


def _of_the_hub(link: Path) -> bool:
    """Whether a link is one of a hub's cache: MODEL/snapshots/REVISION/FILE, which leads to MODEL/blobs/HASH."""
    folder = link.absolute().parent
    return folder.parent.name == "snapshots" and link.resolve().is_relative_to(folder.parents[1].resolve() / "blobs")


def _model_config(name: str, model: nn.Module) -> dict[str, Any]:
    """open_clip's configuration of an architecture, with the activation of the network that was made of it."""
    found: dict[str, Any] = copy.deepcopy(import_open_clip().get_model_config(name)) or {}
    known = {key: value for key, value in found.items() if key in MODEL_KEYS or key in ("text_cfg", "vision_cfg")}
    for key, what in REFUSED.items():
        if found.get(key) or known.get("text_cfg", {}).get(key):
            raise InputError(f"the CLIP {name} has {what}, which is not read from a folder: take another")
    return {**known, "quick_gelu": any(type(part).__name__ == ACTIVATION for part in model.modules())}


def _preprocessing(model: nn.Module) -> dict[str, Any]:
    own = import_open_clip().get_model_preprocess_cfg(model)
    return {key: value for key, value in own.items() if key in PREPROCESS_KEYS and value is not None}
