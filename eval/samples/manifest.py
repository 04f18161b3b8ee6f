"""The manifest of a sample folder: one JSON object a line, one line an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.metrics.scoring import problem_with
from eval.untrusted import MAX_RECORD, parse_json, read_bytes

MAX_MANIFEST = 2**31
"""Bytes of a manifest: a million pictures' have 500 MB."""

LONGEST_NAME = 255
LONGEST_SIGN = 64

REQUIRED: dict[str, type] = {"file": str, "caption": str, "caption_index": int, "sample_index": int, "condition": str}


def json_lines(text: str) -> list[str]:
    """The lines of a file of one JSON object a line.

    They end with a line feed and nothing else: a caption may hold what `str.splitlines` takes for an end, as U+2028.
    """
    return text.removesuffix("\n").split("\n") if text else []


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """Reads a manifest and checks it against itself.

    Returns:
        One dict for each line, with at least the keys of `REQUIRED`.

    Raises:
        InputError: unreadable, empty, not JSON, a key missing, a file or sample listed twice, or one caption_index with
            two captions; the message names file and line.
    """
    try:
        lines = json_lines(read_bytes(path, MAX_MANIFEST).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({_reason(error)}): is '{path.parent}' a sample folder?") from error
    records = [parse_record(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise InputError(f"{path} is empty; sample again")
    files: dict[str, int] = {}
    samples: dict[tuple[int, int], int] = {}
    captions: dict[int, str] = {}
    for number, record in enumerate(records, 1):
        name, key = record["file"], (record["caption_index"], record["sample_index"])
        if files.setdefault(name, number) != number:
            raise InputError(f"{path}:{number} lists {name}, as line {files[name]} does; each image has one line")
        if samples.setdefault(key, number) != number:
            raise InputError(
                f"{path}:{number} repeats caption_index {key[0]}, sample_index {key[1]} of line {samples[key]}"
            )
        if captions.setdefault(key[0], record["caption"]) != record["caption"]:
            raise InputError(f"{path}:{number} gives caption_index {key[0]} another caption than an earlier line")
    return records


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def plain_records(path: Path) -> list[Any]:
    """The lines of a manifest, checked only as JSON, for callers that need a part of them.

    Raises:
        InputError: no regular file, too large, or a line that is no JSON of bounded depth and finite numbers.
        OSError, UnicodeDecodeError: missing; no UTF-8.
    """
    lines = json_lines(read_bytes(path, MAX_MANIFEST).decode("utf-8-sig"))
    return [parse_json(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def parse_record(place: str, line: str) -> dict[str, Any]:
    """One line of a manifest, checked against itself.

    Raises:
        InputError: names the place and the key.
    """
    if len(line) > MAX_RECORD:
        raise InputError(f"{place} has {len(line):,} characters, over the limit of {MAX_RECORD:,}; sample again")
    try:
        record = parse_json(line, place)
    except InputError as error:
        raise InputError(f"{error}; the manifest is damaged, sample again") from error
    for key, kind in REQUIRED.items():
        value = record.get(key) if isinstance(record, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = "a number" if kind is int else "text"
            raise InputError(f"{place} needs {key!r} to be {wanted}, found {repr(value)[:100]}")
    problem = problem_with(record["mentioned"]) if record.get("mentioned") else None
    if problem:
        raise InputError(f"{place}: 'mentioned' cannot be read, {problem}; write the folder again")
    sign = record.get("sign", "")
    if not isinstance(sign, str) or len(sign) > LONGEST_SIGN:
        raise InputError(f"{place}: 'sign' is a word of up to {LONGEST_SIGN} letters, found {repr(sign)[:100]}")
    if len(record["file"]) > LONGEST_NAME:
        raise InputError(f"{place} names a file of {len(record['file'])} characters; no file has such a name")
    for key in ("caption_index", "sample_index"):
        if not 0 <= record[key] < 2**31:
            raise InputError(f"{place}: {key!r} must be a number from 0 to 2^31, found {record[key]}")
    if Path(record["file"]).name != record["file"] or "\0" in record["file"]:
        raise InputError(f"{place} names {record['file'][:100]!r}; 'file' is a plain name inside the folder")
    return record
