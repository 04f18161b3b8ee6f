"""Says which pairs of validation and test a CLIP has been trained on, where `splits` was changed after its training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from datamodules.pictures.module import PictureDataModule
from experiments.data.sources import make_data
from modules.aliases import today
from modules.errors import InputError
from modules.untrusted.allowed import plain
from modules.untrusted.reading import read_yaml

PLACES = ("train", "val", "test", "captions_from")
DECIDE = ("splits", *PLACES)
"""Arguments of the data that decide which pairs are in which split."""


def warn_of_shared_pairs(data: Any, section: dict[str, Any], clip: str) -> None:
    """Print a warning for each split of `data` that holds pairs the CLIP was trained on.

    Args:
        data: the pairs to embed.
        section: their class_path and init_args.
        clip: the folder RUN/clip/export of a CLIP of this suite; of others nothing is known.
    """
    for split, shared, size in shared_pairs(data, section, clip):
        print(
            f"unclip: warning: {shared:,} of {size:,} pairs of {split} were training pairs of the CLIP {clip}, whose "
            "data had other splits: what is measured on them looks too good; keep the splits, or train the CLIP again",
            file=sys.stderr,
            flush=True,
        )


def shared_pairs(data: Any, section: dict[str, Any], clip: str) -> Iterator[tuple[str, int, int]]:
    """(split, pairs of it that the CLIP was trained on, pairs of it), for validation and test, where there are some."""
    theirs = training_data(Path(clip))
    if theirs is None or not isinstance(data, PictureDataModule) or not _may_share(section, theirs):
        return
    try:
        before, _ = make_data(_as_before(section, theirs), PictureDataModule, embeddings=None, num_workers=0)
        trained = set(before.pairs("train").keys)
    except InputError:  # Its data are gone: nothing can be said.
        return
    for split in ("val", "test"):
        keys = data.pairs(split).keys
        shared = sum(key in trained for key in keys)
        if shared:
            yield split, shared, len(keys)


def training_data(export: Path) -> dict[str, Any] | None:
    """The `data:` section of the run that exported a CLIP; None where there is none."""
    try:
        content = today(read_yaml(export.absolute().parent / "config.yaml"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    section = content.get("data") if isinstance(content, dict) else None
    return section if isinstance(section, dict) and "class_path" in section else None


def _as_before(section: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The user's own data, shared out as the CLIP's were.

    The CLIP's config may be a stranger's: of it only plain values for `splits` are taken, and places that the user's
    section names too.

    Raises:
        InputError: the CLIP's data lay elsewhere, or its splits are no plain values.
    """
    ours, other = dict(section.get("init_args") or {}), theirs.get("init_args") or {}
    own = [ours.get(key) for key in PLACES]
    for key in PLACES:
        if other.get(key) is not None and other[key] not in own:
            raise InputError(f"{key}: the CLIP was trained on other data")
    before = {key: plain(other[key], key) for key in DECIDE if other.get(key) is not None}
    left = {key: value for key, value in ours.items() if key not in DECIDE}
    return {"class_path": section["class_path"], "init_args": {**left, **before}}


def _may_share(section: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether both read the same kind of data, and share it out differently."""
    ours, other = (part.get("init_args") or {} for part in (section, theirs))
    if not isinstance(other, dict):
        return False
    same_kind = section.get("class_path") == theirs["class_path"]
    return same_kind and any(_plain(ours.get(key)) != _plain(other.get(key)) for key in DECIDE)


def _plain(value: Any) -> Any:
    """Settings that are not set, left out."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
