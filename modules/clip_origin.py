"""Whose embeddings a stage has been trained on: it is recorded, and another CLIP's are refused."""

from __future__ import annotations

from typing import Any

from modules.errors import InputError

KEY = "clip_fingerprint"
"""In checkpoints, and in the config.yaml of an export."""


def origin_of(trainer: Any) -> str | None:
    """Fingerprint of the CLIP that made the embeddings of the Trainer's data; None where nothing says."""
    return getattr(getattr(trainer, "datamodule", None), KEY, None)


def check_origin(trained_on: str | None, here: str | None, what: str, given: str) -> None:
    """Refuse a stage and embeddings that do not belong together; what is not known is not checked.

    Args:
        trained_on: fingerprint of the CLIP that the stage was trained on.
        here: of the CLIP that is used with it.
        what: names the stage.
        given: names where the other CLIP comes from.

    Raises:
        InputError: they differ.
    """
    if None not in (trained_on, here) and trained_on != here:
        raise InputError(
            f"{what} was trained on embeddings of the CLIP {trained_on}, but {given} the CLIP {here}: use the one that "
            "it was trained on, or train it again"
        )
