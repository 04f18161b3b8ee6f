"""What pictures are wanted of: one caption, a text file of them, or the captions of a sample folder's manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.samples import MANIFEST, SampleFolder
from modules.errors import InputError

COPIED = ("mentioned", "attribution")  # What a manifest of captions knows and the samples' manifest keeps.


@dataclass(frozen=True)
class Request:
    """One caption of which pictures are wanted: its position, what its source knows of it, and its image if any."""

    caption: str
    index: int
    known: dict[str, Any]
    image: int | None = None


def read_requests(caption: str | None, captions: str | None) -> tuple[list[Request], SampleFolder | None]:
    """The captions that a command was given, and the sample folder that they come from, if they do.

    Raises:
        InputError: neither or both were given, or the file holds no captions.
        OSError: the file cannot be read.
    """
    if (caption is None) == (captions is None):
        raise InputError("give one caption, or a file of them with --captions")
    if caption is not None:
        if not caption.strip():
            raise InputError("the caption is empty: say what to draw")
        return [Request(caption, 0, {})], None
    path = Path(str(captions))
    if path.name == MANIFEST or path.suffix == ".jsonl":
        return _from_manifest(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8 ({error.reason})") from error
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"{path} holds no caption: write one a line")
    return [Request(text, k, {}) for k, text in enumerate(found)], None


def _from_manifest(path: Path) -> tuple[list[Request], SampleFolder | None]:
    """The captions of a sample folder's manifest, each once, with the first of its images."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found: dict[int, Request] = {}
        for k, record in enumerate(records):
            caption, index = record["caption"], record["caption_index"]
            if not isinstance(caption, str) or not caption.strip() or type(index) is not int:
                raise InputError(
                    f"{path}: record {k + 1} has the caption {caption!r} and the caption_index {index!r}: a text that "
                    "is not empty and a whole number are needed"
                )
            known = {key: record[key] for key in COPIED if key in record}
            if found.setdefault(index, Request(caption, index, known, k)).caption != caption:
                raise InputError(
                    f"{path}: two captions have the caption_index {index}, {found[index].caption!r} and {caption!r}: "
                    "number them anew"
                )
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a manifest of samples ({error!r})") from error
    if not found:
        raise InputError(f"{path} holds no caption")
    return list(found.values()), SampleFolder.open(path.parent) if path.name == MANIFEST else None
