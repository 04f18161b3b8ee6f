"""Metadata tables beside pictures: Hugging Face's imagefolder convention, one line a picture."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.errors import InputError

METADATA = ("metadata.jsonl", "metadata.csv")
LONGEST = (1 << 31) - 1
"""Characters of a field; the library's own limit ends the reading of the whole table, where one line is at fault."""


def inside(folder: str, name: str) -> tuple[str, str]:
    """A table's file name relative to the root, and what is wrong with it, or ""."""
    joined = os.path.normpath(f"{folder}/{name}" if folder else name)
    if not name or name.startswith(("/", "~")) or joined.split("/")[0] == ".." or "\\" in name:
        return joined, "a path that leads out of the folder"
    return joined, ""


Row = tuple[str, dict[str, Any], str]


def rows_of(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    """(place, row, "") of a metadata table, or (place, what could be read of the row, what is wrong with that line).

    Raises:
        InputError: the table cannot be read at all, or lacks a column.
    """
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad caption costs one line.
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return (_csv_rows if path.suffix == ".csv" else _json_rows)(path, text, {"file_name", *columns.values()})


def _csv_rows(path: Path, text: str, needed: set[str]) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # A caption that is too long is one line's fault.
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = reader.fieldnames or ()
    for name in sorted(name for name in needed if list(names).count(name) > 1):
        raise InputError(f"{path} has two columns {name!r}: rename one")
    for name in sorted(needed - set(names)):
        raise InputError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    try:
        for row in reader:
            wrong = "" if row["file_name"] else "a line without file_name"
            if None in row:  # Most often a caption with a comma and without quotes, whose end would be lost.
                wrong = "a line with too many fields"
            yield f"{path}:{reader.line_num}", row, wrong
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}") from error


def _json_rows(path: Path, text: str, needed: set[str]) -> Iterator[Row]:
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            yield f"{path}:{number}", {}, "a line that is not JSON"
            continue
        seen.update(row)
        wrong = "" if isinstance(row.get("file_name"), str) else "a line without file_name"
        yield f"{path}:{number}", row, wrong
    for name in sorted(needed - seen):
        raise InputError(f"{path}: no line has {name!r}; there are {', '.join(sorted(seen)) or 'no lines'}")
