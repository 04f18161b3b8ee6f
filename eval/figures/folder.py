"""A figure as a folder: pictures, and figure.json, which says what they show, with its tables. Reports collect them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from eval.errors import InputError
from eval.files import replacing_folder
from eval.samples.pictures import PNG
from eval.tables.main import Cell, Table
from eval.untrusted import read_json, reason, require_inside

RECORD, PICTURE = "figure.json", "figure.png"


@dataclass(frozen=True)
class FigureRecord:
    """The record of a figure, beside its pictures.

    Attributes:
        title: of the figure.
        notes: sentences below it.
        tables: below those.
        pictures: file names of what is shown, in order.
        numbers: for programs.
        how: command, settings, seed, commit.
    """

    title: str
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)


def require_writable_figure(folder: str | Path, overwrite: bool = False) -> None:
    """Checks that `write_figure` may write there; call it before the work.

    Raises:
        InputError: the place holds something else, or an older figure and `overwrite` is off.
    """
    folder = Path(folder)
    if folder.is_dir():
        if not any(folder.iterdir()):
            return
        # The record alone may be gone: a suite puts a stage's outputs aside before it runs the stage again.
        if not ((folder / RECORD).is_file() or (folder / PICTURE).is_file()):
            raise InputError(f"{folder} is not empty and holds no figure; choose another folder")
        if not overwrite:
            raise InputError(f"{folder} holds a figure; choose another folder or pass --overwrite")
    elif folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is a file; choose another folder")


def write_figure(
    folder: str | Path,
    record: FigureRecord,
    pictures: Mapping[str, Image.Image | bytes],
    extra: Mapping[str, Image.Image | bytes] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a figure so that it is there completely or not at all.

    Args:
        folder: where; parents are made.
        record: its `pictures` are replaced by the names of `pictures`.
        pictures: file name -> picture, or the bytes of a PNG; shown in reports.
        extra: further files, which may lie in subfolders; not shown.

    Raises:
        InputError: see `require_writable_figure`; also a full disk.
    """
    folder = Path(folder).absolute()
    require_writable_figure(folder, overwrite)
    content = {
        "title": record.title,
        "notes": record.notes,
        "tables": [_table_as_json(table) for table in record.tables],
        "pictures": list(pictures),
        "numbers": record.numbers,
        "how": record.how,
    }
    with replacing_folder(folder) as partial:
        for name, picture in {**pictures, **(extra or {})}.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(picture, bytes):
                path.write_bytes(picture)
            else:
                picture.save(path, **PNG)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
    return folder


def read_figure(folder: str | Path) -> FigureRecord:
    """Read the record of a figure that `write_figure` wrote.

    Raises:
        InputError: figure.json is damaged, or a picture that it names is missing.
    """
    path = Path(folder) / RECORD
    try:
        content = read_json(path)
        tables = [_table_from_json(table) for table in content["tables"]]
        found = FigureRecord(
            content["title"], content["notes"], tables, content["pictures"], content["numbers"], content["how"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path} ({reason(error)}); make the figure again") from error
    kinds = {"title": str, "notes": list, "pictures": list, "numbers": dict, "how": dict}
    for key, kind in kinds.items():
        if not isinstance(getattr(found, key), kind):
            raise InputError(f"{path}: {key} must be a {kind.__name__}; make the figure again")
    if not all(isinstance(note, str) for note in found.notes):
        raise InputError(f"{path}: notes must be text; make the figure again")
    for name in found.pictures:
        require_inside(path.parent, name)
    return found


def _table_as_json(table: Table) -> dict[str, Any]:
    rows = [[list(cell) for cell in row] for row in table.rows]
    return {"title": table.title, "columns": table.columns, "rows": rows, "notes": table.notes}


def _table_from_json(content: Mapping[str, Any]) -> Table:
    rows: Sequence[Sequence[Sequence[str]]] = content["rows"]
    made = [[Cell(*cell) for cell in row] for row in rows]
    texts = [content["title"], *content["columns"], *content["notes"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a table's title, columns and notes are text")
    return Table(content["title"], content["columns"], made, content["notes"])
