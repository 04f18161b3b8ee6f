"""Runs on a model hub: which of a repository's files are downloaded, and where they then lie.

Only files of the names that `unclip export` writes are asked for: configs and safetensors, which are then read as those
of any stranger are. Code, pickles and whatever else a repository holds stay there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from modules.errors import InputError
from modules.untrusted.reading import printable

FILES = (
    "README.md",
    "*/README.md",
    "*/config.yaml",
    "*/model.safetensors",
    "*/open_clip_config.json",
    "*/open_clip_model.safetensors",
    "*/vocabulary.json",
)
"""What is sent and fetched, as patterns of paths in the repository: a folder for each stage, and cards."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
OWN_FOLDERS = ("runs", "out")
"""Folders that commands of this project make by default: a path below them is never a user of the hub."""


def is_repository(text: str) -> bool:
    """Whether a text can be USER/NAME or USER/NAME@REVISION, and is not a path that is wrong only at its end."""
    user = text.partition("/")[0]
    matches = re.fullmatch(rf"{NAME}(@[A-Za-z0-9._-]+)?", text) is not None
    return matches and user not in OWN_FOLDERS and not Path(user).exists()


def fetched(text: str) -> Path:
    """The folder of a run on the hub, downloaded if it is not there yet; what is there is checked for changes.

    Args:
        text: USER/NAME, or USER/NAME@REVISION for a branch, a tag or a commit.

    Raises:
        InputError: the hub has no such repository, does not hand it out, or cannot be reached and nothing is there.
    """
    import huggingface_hub  # It takes a while to import, and most runs are folders.

    name, _, revision = text.partition("@")
    try:
        path = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # Of the hub, of the network, or of the names: each library has its own.
        reason = printable(" ".join(str(error).split())[:200])
        raise InputError(
            f"no run folder {text} here, and it cannot be fetched from the hub ({type(error).__name__}: {reason}). "
            "Without internet, download the repository's files elsewhere, put them into a folder, and name that"
        ) from error
    print(f"run: {text} of the hub, revision {Path(path).name[:12]}", file=sys.stderr, flush=True)
    return Path(path)
