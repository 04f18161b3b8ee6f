"""The sources of released weights: a folder, or a name on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from modules.errors import InputError
from modules.untrusted.reading import printable

WEIGHTS = "*.safetensors"
WANTED = ("*.json", "*.txt", "*.md", "*.model", WEIGHTS)
"""Files of a hub's folder that are taken; pickles only of components that have nothing else."""


def source_folder(source: str, what: str) -> Path:
    """The folder of a path or of a name on the hub, which is downloaded once.

    Args:
        source: as the user gave it; a name may end in @REVISION, a branch, a tag or a commit.
        what: which files the folder should have, and where people get them.

    Raises:
        InputError: neither; or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{source} is a file: name the folder that it lies in, {path.parent}; give {what}")
    named = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if path.exists() or named is None:
        raise InputError(f"no folder {source}: give {what}")
    from huggingface_hub import snapshot_download

    name, revision = named.groups()
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
        lacking = [place.relative_to(found) / "*.bin" for place in components(found) if not any(place.glob(WEIGHTS))]
        if lacking:
            snapshot_download(name, revision=revision, allow_patterns=[path.as_posix() for path in lacking])
    except Exception as error:  # Of the hub, of the network, or of the name: each library has its own.
        reason = printable(" ".join(str(error).split())[:200])
        raise InputError(
            f"{source} is no folder, and cannot be fetched from the hub ({reason}): download it elsewhere, put it into "
            f"a folder and name that. It should be {what}"
        ) from error
    return found


def components(folder: Path) -> list[Path]:
    """The folder and those in it that have a model's config.json."""
    return sorted({path.parent for path in (*folder.glob("config.json"), *folder.glob("*/config.json"))})
