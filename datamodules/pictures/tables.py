"""Metadata tables beside pictures: Hugging Face's imagefolder convention, one line a picture."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modules.errors import InputError
from modules.untrusted.reading import MAX_TABLE, read_bytes

METADATA = ("metadata.jsonl", "metadata.csv")
LONGEST = (1 << 31) - 1
"""Characters of a field; the library's own limit ends the reading of the whole table, where one line is at fault."""


def inside(folder: str, name: str) -> tuple[str, str]:
    """A table's file name relative to the root, and what is wrong with it, or ""."""
    joined = os.path.normpath(f"{folder}/{name}" if folder else name)
    if name.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", name):
        return joined, "an absolute path: name files from the folder"
    if "\\" in name:
        return joined, "a path with backslashes: write / between folders"
    if not name or joined.split("/")[0] == "..":
        return joined, "a path that leads out of the folder"
    return joined, ""


class Names:
    """The files below a folder, found by their names in any Unicode form: macOS writes "é" as two signs.

    Args:
        files: relative names.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._files = set(files)
        self._composed = {composed(name): name for name in self._files if not name.isascii()}

    def find(self, name: str) -> str:
        """The file's own name, or `name` if there is none."""
        return name if name in self._files else self._composed.get(composed(name), name)

    def __contains__(self, name: str) -> bool:
        return name in self._files


def composed(name: str) -> str:
    """A name in the Unicode form in which "é" is one sign."""
    return unicodedata.normalize("NFC", name)


Row = tuple[str, dict[str, Any], str]


def rows_of(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    """The rows of a metadata table: (place, row, ""), or (place, the readable part of the row, what is wrong with it).

    Raises:
        InputError: the table cannot be read at all, or lacks a column.
    """
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad caption costs one line.
        content = read_bytes(path, MAX_TABLE)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4]:
        raise InputError(f"{path} is UTF-16 or UTF-32: save it as UTF-8")
    text = content.decode("utf-8-sig", "surrogateescape")
    return (_csv_rows if path.suffix == ".csv" else _json_rows)(path, text, {"file_name", *columns.values()})


def _csv_rows(path: Path, text: str, needed: set[str]) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # A caption that is too long is one line's fault.
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
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
    if text.lstrip()[:1] == "[":
        raise InputError(f"{path} is a JSON array: write each of its objects on a line of its own, without commas")
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
