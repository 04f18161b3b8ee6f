"""Where released weights come from: a folder, or a name on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from modules.errors import InputError

WANTED = ("*.json", "*.txt", "*.safetensors", "*.model")
"""Files of a hub's folder that are taken; pickles only where there is nothing else."""


def source_folder(source: str, what: str) -> Path:
    """The folder of a path or of a name on the hub, which is downloaded once.

    Args:
        source: as the user gave it.
        what: says which files the folder should have, and where they are to be had.

    Raises:
        InputError: neither; or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise InputError(f"no folder {source}: give {what}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(source, allow_patterns=list(WANTED)))
        if not any(found.rglob("*.safetensors")):
            found = Path(snapshot_download(source, allow_patterns=[*WANTED, "*.bin"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source} is no folder, and cannot be had from the hub ({reason}): download it elsewhere, put it into a "
            f"folder and name that. It should be {what}"
        ) from error
    return found
