"""Sending an exported run to a model hub, from where `UnCLIP.from_run("USER/NAME")` reads it."""

from __future__ import annotations

import re
from pathlib import Path

from modules.errors import InputError
from modules.untrusted.hub import FILES, NAME
from modules.untrusted.reading import printable


def check_push(repository: str) -> None:
    """Refuse a wrong name or a missing login before anything is written.

    Raises:
        InputError: says what to do.
    """
    from huggingface_hub import get_token

    if re.fullmatch(NAME, repository) is None:
        raise InputError(f"--push takes USER/NAME, the repository to make or to change, not {printable(repository)!r}")
    if get_token() is None:
        raise InputError("--push needs a login to the hub: `hf auth login`, or a token in the variable HF_TOKEN")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Send an exported run.

    Args:
        folder: that `unclip export` wrote; of it the files of `modules.untrusted.hub.FILES` are sent.
        repository: USER/NAME; it is made if it is not there.
        private: whether it is made for its owner alone; one that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        InputError: the hub refuses, or cannot be reached; the folder is left as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        sent = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="unclip export",
        )
    except Exception as error:  # Of the hub or of the network: each library has its own.
        reason = printable(" ".join(str(error).split())[:300])
        raise InputError(
            f"{folder} is written, but the hub did not take it ({type(error).__name__}: {reason}): see to the token "
            f"and the connection, and send it with `hf upload {repository} {folder}`"
        ) from error
    return str(sent.commit_url)
