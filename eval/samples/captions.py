"""Captions of pictures that others drew: a table beside them, text files, GenEval's folders, or none."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.samples.manifest import json_lines
from eval.samples.parquet import read_columns
from eval.untrusted import MAX_RECORD, parse_json, read_bytes, within
from eval.words import counted

TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
TABLE_NAMES = ("manifest", "metadata", "captions", "prompts")
FILE_COLUMNS = ("file_name", "file", "filename", "image", "image_path", "path", "image_file")
CAPTION_COLUMNS = ("caption", "text", "prompt", "prompts", "title")
MAX_TABLE = 2**31
WAYS = "name a table by --captions, put a .txt beside every picture, or leave all captions out"
Row = Mapping[str, Any]


def find_table(folder: Path) -> Path | None:
    """The table of captions in a folder: manifest, metadata, captions or prompts, of one of `TABLES`; None without.

    Raises:
        InputError: there are several.
    """
    found = [folder / f"{name}{suffix}" for name in TABLE_NAMES for suffix in TABLES]
    there = [path for path in found if path.is_file()]
    if len(there) > 1:
        raise InputError(f"{folder} holds {there[0].name} and {there[1].name}: name one by --captions")
    return within(folder, there[0]) if there else None


def read_table(path: Path) -> list[Row]:
    """The rows of a .jsonl, .csv, .tsv or .parquet file.

    Raises:
        InputError: unreadable, of another kind, or without rows.
    """
    kind = path.suffix.lower()
    if kind not in TABLES:
        raise InputError(f"{path}: captions are read from {', '.join(TABLES)} files")
    try:
        rows = _parquet(path) if kind == ".parquet" else list(_text_rows(path, kind))
    except OSError as error:
        raise InputError(f"cannot read the captions {path} ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the captions {path} ({' '.join(str(error).split())[:200]})") from error
    if not rows:
        raise InputError(f"{path} holds no captions")
    return rows


def _text_rows(path: Path, kind: str) -> Iterator[Row]:
    text = read_bytes(path, MAX_TABLE).decode("utf-8-sig")
    if kind != ".jsonl":
        csv.field_size_limit(MAX_RECORD)
        yield from _tab_separated(text) if kind == ".tsv" else csv.DictReader(io.StringIO(text, newline=""))
        return
    for number, line in enumerate(json_lines(text), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number} is no JSON object")
        yield row


def _tab_separated(text: str) -> Iterator[Row]:
    """The rows of a .tsv, whose quotes are read as csv has them if all of them can be.

    PartiPrompts' file knows no such quoting: one of its prompts is `"G I G G L E" painted in thick colorful lettering`.
    """
    try:
        yield from list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
    except csv.Error:
        yield from csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)


def _parquet(path: Path) -> list[Row]:
    return read_columns(path, lambda name: name.lower() in (*FILE_COLUMNS, *CAPTION_COLUMNS))


def column_of(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The first of `names` that the rows have as a column, whatever its case."""
    there = {str(key).lower().strip(): str(key) for row in reversed(rows) for key in row}
    return next((there[name] for name in names if name in there), None)


def by_table(path: Path, pictures: Sequence[str], required: bool = True) -> dict[str, str]:
    """Picture -> caption, by a table; pictures are names relative to their folder, in order.

    Rows name their picture by a path or by a file's name with or without its ending. In a table without such a column
    row k is of picture k, and there have to be as many.

    Args:
        path: the table.
        pictures: all pictures.
        required: refuse a table without a column of captions, such as one of labels; otherwise it gives none.

    Raises:
        InputError: no column of captions, a row that names no picture or one of several, or an empty caption.
    """
    rows = read_table(path)
    text, file = column_of(rows, CAPTION_COLUMNS), column_of(rows, FILE_COLUMNS)
    if text is None and not required:
        return {}
    if text is None:
        raise InputError(f"{path} has no column of captions ({', '.join(CAPTION_COLUMNS)})")
    if file is None and len(rows) != len(pictures):
        raise InputError(
            f"{path} has {counted(len(rows), 'caption')} and no column of files ({', '.join(FILE_COLUMNS)}), there are"
            f" {len(pictures)} pictures: name the file of each"
        )
    names = _names(pictures)
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name = pictures[number - 1] if file is None else names.get(_plain(row.get(file)), "")
        caption = row.get(text)
        if not name:
            raise InputError(f"{path}: row {number} names {row.get(str(file))!r}, which is no picture here, or several")
        if not isinstance(caption, str) or not caption.strip():
            raise InputError(f"{path}: row {number} has no caption for {name}")
        if found.setdefault(name, caption.strip()) != caption.strip():
            raise InputError(f"{path}: row {number} gives {name} a second caption; keep one")
    return found


def _plain(value: object) -> str:
    return re.sub(r"^\./", "", str(value or "").replace("\\", "/"))


def _names(pictures: Sequence[str]) -> dict[str, str]:
    """What a row may call a picture -> its name; "" where several are called so."""
    found: dict[str, str] = {}
    for name in pictures:
        short = name.rpartition("/")[2]
        for called in {name, name.rpartition(".")[0], short, short.rpartition(".")[0]} - {name}:
            found[called] = "" if called in found else name
    return found | {name: name for name in pictures}


def by_texts(folder: Path, pictures: Sequence[str]) -> dict[str, str]:
    """Picture -> caption, by the first line that is not empty of a .txt of its name beside it."""
    found: dict[str, str] = {}
    for name in pictures:
        path = folder / (name.rpartition(".")[0] + ".txt")
        if not path.is_file():
            continue
        try:
            text = read_bytes(within(folder, path), MAX_RECORD).decode("utf-8-sig")
            lines = [line.strip() for line in text.splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the caption {path} ({error})") from error
        if any(lines):
            found[name] = next(line for line in lines if line)
    return found
