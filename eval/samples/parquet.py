"""Captions in a parquet file, read within bounds: a small file may hold a table that fills the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.untrusted import open_regular, printable

MAX_ROWS = 2**22
MAX_BYTES = 2**28
"""Of all texts of a column together, when each is written out; a million prompts have 100 MB."""
AT_ONCE = 65_536


def read_columns(path: Path, wanted: Callable[[str], bool]) -> list[Mapping[str, Any]]:
    """The rows of a parquet file, of those columns of text whose name is wanted.

    Raises:
        InputError: the package is missing, the file is damaged or too large, or such a column holds no text.
        OSError: it cannot be read.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise InputError(f'{path}: parquet is read by pyarrow: `pip install -e ".[parquet]"`') from None
    try:
        with open_regular(path) as file:
            schema = parquet.read_schema(file)
            names = [name for name in schema.names if wanted(name)]
            _check_text(schema, names, path)
            file.seek(0)
            with parquet.ParquetFile(file, read_dictionary=names) as opened:
                return _rows(opened, names, path)
    except (ArrowException, KeyError) as error:
        raise InputError(f"cannot read the captions {path} ({' '.join(str(error).split())[:200]})") from error


def _check_text(schema: Any, names: list[str], path: Path) -> None:
    from pyarrow import types

    for name in names:
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise InputError(f"{path}: the column {printable(name[:60])!r} holds {printable(str(kind)[:60])}, no text")


def _rows(opened: Any, names: list[str], path: Path) -> list[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.compute as compute

    about = opened.metadata
    columns = [about.row_group(k).column(c) for k in range(about.num_row_groups) for c in range(about.num_columns)]
    stated = sum(column.total_uncompressed_size for column in columns if column.path_in_schema in names)
    left = MAX_BYTES - stated
    if about.num_rows > MAX_ROWS or left < 0:
        raise InputError(f"{path} says that it holds {about.num_rows:,} rows of {stated:,} bytes: give fewer at once")
    rows: list[Mapping[str, Any]] = []
    for batch in opened.iter_batches(AT_ONCE, columns=names) if names else ():
        for part in batch.columns:
            if pyarrow.types.is_dictionary(part.type):
                left -= compute.sum(compute.binary_length(part.dictionary).take(part.indices)).as_py() or 0
        if left < 0:
            raise InputError(f"{path}: its texts have over {MAX_BYTES:,} bytes: give fewer at once")
        rows += batch.to_pylist()
    return rows
