"""The captions to draw: one, a text file or table of them, a benchmark's prompts, or a sample folder's manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.samples.captions import TABLES, column_of, read_table
from eval.samples.folder import MANIFEST, SampleFolder
from eval.samples.geneval import KEY as GENEVAL
from eval.samples.geneval import check_metadata
from eval.samples.manifest import plain_records
from eval.samples.plain import OF_CAPTION
from experiments.console.arguments import check_text
from modules.errors import InputError
from modules.untrusted.reading import MAX_TABLE, open_regular, read_bytes, reason

COPIED = (*OF_CAPTION, "attribution", "prompt", GENEVAL, "category", "challenge")
"""What a manifest of captions knows and the manifest of their pictures keeps."""


@dataclass(frozen=True)
class Request:
    """One caption of which pictures are wanted.

    Attributes:
        caption: the caption.
        index: its position.
        known: further keys of its manifest line (see COPIED).
        images: positions of its real images in the manifest, ordered by sample number; empty without a manifest.
    """

    caption: str
    index: int
    known: dict[str, Any]
    images: tuple[int, ...] = ()

    def image(self, sample: int) -> int:
        """The position of the real image for a sample; if there are fewer images than samples, they repeat in turn."""
        return self.images[sample % len(self.images)]


def read_requests(caption: str | None, captions: str | None) -> tuple[list[Request], SampleFolder | None]:
    """The captions that a command was given, and the sample folder that they come from, if they do.

    Raises:
        InputError: neither or both were given, or the file holds no captions.
        OSError: the file cannot be read.
    """
    if (caption is None) == (captions is None):
        raise InputError("give one caption, or a file of them with --captions")
    if caption is not None:
        check_text(caption, "the caption")
        if not caption.strip():
            raise InputError("the caption is empty: say what to draw")
        return [Request(caption, 0, {})], None
    path = Path(str(captions))
    if path.name == MANIFEST or (path.suffix == ".jsonl" and not _is_prompts(path)):
        return _from_manifest(path)
    if path.suffix.lower() in TABLES:
        return _from_table(path), None
    try:
        lines = [_line(line) for line in read_bytes(path, MAX_TABLE).decode("utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8 ({error.reason})") from error
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"{path} holds no caption: write one a line")
    return [Request(text, k, {}) for k, text in enumerate(found)], None


PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text", "title")
"""DrawBench's csv has Prompts and Category, PartiPrompts' tsv Prompt, Category, Challenge and Note."""


def _is_prompts(path: Path) -> bool:
    """Whether the first line of a .jsonl is a prompt, as in GenEval's evaluation_metadata.jsonl, and no sample."""
    with open_regular(path) as file:
        line = file.readline(2**20)
    try:
        first = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "caption_index" not in first and column_of([first], PROMPT_COLUMNS) is not None


def _from_table(path: Path) -> list[Request]:
    """The prompts of a .csv, .tsv, .jsonl or .parquet; GenEval's metadata and a category go into the manifest."""
    rows = read_table(path)
    column = column_of(rows, PROMPT_COLUMNS)
    if column is None:
        raise InputError(f"{path} has no column of prompts ({', '.join(PROMPT_COLUMNS)})")
    requests = []
    for number, row in enumerate(rows):
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}: row {number + 1} has no prompt")
        check_text(text, f"{path}: row {number + 1}")
        known: dict[str, Any] = {}
        for name in ("category", "challenge"):
            there = column_of([row], (name,))
            if there is not None and isinstance(row[there], str):
                known[name] = row[there]
        if "include" in row and "tag" in row:
            known[GENEVAL] = check_metadata(dict(row), f"{path}: row {number + 1}")
        requests.append(Request(" ".join(text.split()), number, known))
    return requests


def _line(text: str) -> str:
    """A caption of a text file, without a byte order mark (files may be put together of several) and without NUL."""
    return text.removeprefix("\ufeff").replace("\0", " ").strip()


def images_of(records: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    """Each caption_index of a manifest, in the order of appearance -> the positions of its lines, by sample_index."""
    found: dict[int, list[int]] = {}
    for k, record in enumerate(records):
        found.setdefault(record["caption_index"], []).append(k)
    return {index: sorted(own, key=lambda k: records[k].get("sample_index", 0)) for index, own in found.items()}


def _from_manifest(path: Path) -> tuple[list[Request], SampleFolder | None]:
    """The captions of a sample folder's manifest, each once, with its images."""
    try:
        records = plain_records(path)
        found: dict[int, Request] = {}
        for k, record in enumerate(records):
            caption, index = record["caption"], record["caption_index"]
            check_text(caption, f"{path}: record {k + 1}")
            if not isinstance(caption, str) or not caption.strip() or type(index) is not int:
                raise InputError(
                    f"{path}: record {k + 1} has the caption {caption!r} and the caption_index {index!r}: a text that "
                    "is not empty and a whole number are needed"
                )
            known = {key: record[key] for key in COPIED if key in record}
            if found.setdefault(index, Request(caption, index, known)).caption != caption:
                raise InputError(
                    f"{path}: two captions have the caption_index {index}, {found[index].caption!r} and {caption!r}: "
                    "number them anew"
                )
        images = images_of(records)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a manifest of samples ({reason(error)})") from error
    if not found:
        raise InputError(f"{path} holds no caption")
    requests = [replace(request, images=tuple(images[index])) for index, request in found.items()]
    return requests, SampleFolder.open(path.parent) if path.name == MANIFEST else None
