"""Whose embeddings a stage has been trained on: it is recorded, and another CLIP's are refused."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

from modules.errors import InputError

KEY = "clip_fingerprint"
"""In checkpoints, and in the config.yaml of an export."""


def same_clip(one: str, other: str) -> bool:
    """Whether two fingerprints are one CLIP's: "WEIGHTS" or "WEIGHTS-VOCABULARY".

    Those recorded before vocabularies were, and those of CLIPs without, have the weights' part alone.
    """
    (weights, _, words), (other_weights, _, other_words) = one.partition("-"), other.partition("-")
    return weights == other_weights and (words == other_words or not words or not other_words)


def origin_of(trainer: Any) -> str | None:
    """Fingerprint of the CLIP that made the embeddings of the Trainer's data; None where nothing says."""
    return getattr(getattr(trainer, "datamodule", None), KEY, None)


@cache
def warn_unknown_origin(run: str) -> None:
    """Say, once for each run, that nothing tells whether its stages and its CLIP belong together."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(
            f"unclip: warning: the stages of {run} do not record which CLIP they were trained on, so whether it is the "
            "run's CLIP cannot be checked",
            file=sys.stderr,
            flush=True,
        )


def check_origin(trained_on: str | None, here: str | None, what: str, given: str) -> None:
    """Refuse a stage and embeddings that do not belong together; what is not known is not checked.

    Args:
        trained_on: fingerprint of the CLIP that the stage was trained on.
        here: fingerprint of the CLIP that is used with it.
        what: names the stage.
        given: names where the other CLIP comes from.

    Raises:
        InputError: they differ.
    """
    if trained_on is not None and here is not None and not same_clip(trained_on, here):
        raise InputError(
            f"{what} was trained on embeddings of the CLIP {trained_on}, but {given} the CLIP {here}: use the one that "
            "it was trained on, or train it again"
        )
