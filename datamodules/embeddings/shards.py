"""Rows of embeddings as files, in clip-retrieval's layout, with some kinds of files that are ours only.

The files are numbered shards; each is there whole or not at all.

    img_emb/img_emb_0.npy                   (n, D) z_i
    text_emb/text_emb_0.npy                 (n, D) z_t
    tokens/tokens_0.npy                     (n, L) int64 caption tokens, 0 = padding; ours only
    token_features/token_features_0.npy     (n, L, W) float16 features of every token, if asked for; ours only
    metadata/metadata_0.parquet             column "caption"
    replaced/replaced_0.npy                 (K, 2) int64 rows of this shard that hold another pair's, and whose; if any
    img_emb/img_emb_1.npy, ...

Numbers may be padded with zeros. Nothing that is read here is ever unpickled.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.rendered.cache import MappedArray
from modules.errors import InputError
from modules.untrusted.reading import open_regular, within

PLACES = {"z_i": "img_emb", "z_t": "text_emb", "tokens": "tokens", "features": "token_features"}
"""Kind of array -> its folder, and the start of its files' names."""
METADATA = "metadata"
REPLACED = "replaced"
INSTALL = '`pip install -e ".[parquet]"`'
_TEMPORARY = ".part"


@dataclass(frozen=True)
class Column:
    """One row of a kind of array: its dtype, in the notation of .npy files, and its shape."""

    descr: str
    shape: tuple[int, ...]

    def row_bytes(self) -> int:
        """Size of a row on disk."""
        return int(np.dtype(self.descr).itemsize * np.prod(self.shape))


def shard_path(folder: Path, kind: str, number: int) -> Path:
    """Where a shard of a kind lies: folder/img_emb/img_emb_3.npy."""
    place = PLACES[kind]
    return folder / place / f"{place}_{number}.npy"


def metadata_path(folder: Path, number: int) -> Path:
    """Where a shard's captions lie: folder/metadata/metadata_3.parquet."""
    return folder / METADATA / f"{METADATA}_{number}.parquet"


def replaced_path(folder: Path, number: int) -> Path:
    """The file that lists which rows of a shard hold another pair's embeddings: folder/replaced/replaced_3.npy."""
    return folder / REPLACED / f"{REPLACED}_{number}.npy"


def numbered(folder: Path, place: str, suffix: str = ".npy") -> dict[int, Path]:
    """The shards folder/place/place_N.suffix that exist: number -> path, in the order of the numbers.

    Raises:
        InputError: one is a link that leads out of the folder.
    """
    pattern = re.compile(rf"{re.escape(place)}_(\d+){re.escape(suffix)}")
    found = {}
    for path in (folder / place).glob(f"{place}_*{suffix}"):
        match = pattern.fullmatch(path.name)
        if match:
            found[int(match[1])] = within(folder, path)
    return dict(sorted(found.items()))


class ShardedArray:
    """Several .npy files, one behind another, as one array of rows; each is mapped into memory by every process.

    Args:
        parts: the files.
        lengths: rows of each.
    """

    def __init__(self, parts: Sequence[MappedArray], lengths: Sequence[int]) -> None:
        self.parts = list(parts)
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.parts[0].array.shape[1:])

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        """(len(rows), ...) a copy of the rows, in that order."""
        if len(self.parts) == 1:
            return self.parts[0][rows]
        wanted = np.asarray(list(rows), dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        out = np.empty((len(wanted), *self.row_shape), self.parts[0].array.dtype)
        for shard in np.unique(shards):
            here = shards == shard
            out[here] = self.parts[shard].array[wanted[here] - self.starts[shard]]
        return out


def open_array(paths: Sequence[Path], dtypes: Sequence[str], shape: tuple[int, ...], hint: str) -> ShardedArray:
    """The shards of one kind, each checked.

    Args:
        paths: at least one.
        dtypes: those that are accepted.
        shape: of a row; -1 accepts any size, which must be the same in all shards.
        hint: how the message of an error ends.

    Raises:
        InputError: a file that is missing, damaged, a pickle, of another dtype or of another width.
    """
    parts, lengths, first = [], [], None
    for path in paths:
        mapped = MappedArray(path)
        try:
            array = mapped.array
        except (OSError, ValueError, EOFError, AttributeError) as error:
            raise InputError(f"{path}: not a readable array ({error}); {hint}") from error
        fits = array.ndim == 1 + len(shape) and all(w in (-1, n) for w, n in zip(shape, array.shape[1:], strict=True))
        if array.dtype.name not in dtypes or not fits:
            wanted = ", ".join(["rows", *("any" if width == -1 else str(width) for width in shape)])
            expected = f"{' or '.join(dtypes)} of shape ({wanted})"
            raise InputError(f"{path}: {array.dtype} of shape {array.shape}, expected {expected}; {hint}")
        first = (array.dtype, array.shape[1:]) if first is None else first
        if first != (array.dtype, array.shape[1:]):
            said = f"{array.dtype} rows of shape {array.shape[1:]}, in {paths[0].name} {first[0]} of {first[1]}"
            raise InputError(f"{path}: {said}; {hint}")
        parts.append(mapped)
        lengths.append(len(array))
    return ShardedArray(parts, lengths)


class ShardFiles:
    """The files of one shard while they are written: rows are appended, then all files appear under their names.

    Args:
        folder: of the split.
        number: of the shard.
        size: rows that it will have.
        columns: kind -> what its rows are.
        captions: whether there is a metadata file as well.

    Attributes:
        replaced: (row of the split, pair) of rows that hold the embeddings of another pair.

    Raises:
        OSError: they can't be written.
    """

    def __init__(self, folder: Path, number: int, size: int, columns: Mapping[str, Column], captions: bool) -> None:
        self.folder, self.number, self.size, self.rows = folder, number, size, 0
        self.captions: list[str] | None = [] if captions else None
        self.replaced: list[tuple[int, int]] = []
        self._columns = dict(columns)
        self._files: dict[str, IO[bytes]] = {}
        for kind, column in columns.items():
            path = _temporary(shard_path(folder, kind, number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[kind] = path.open("wb")
            header = {"descr": column.descr, "fortran_order": False, "shape": (size, *column.shape)}
            np.lib.format.write_array_header_1_0(self._files[kind], header)

    def append(self, rows: Mapping[str, np.ndarray], captions: Sequence[str]) -> None:
        """Rows of every kind.

        Raises:
            ValueError: of another shape than was said.
        """
        self.check(rows, len(captions))
        for kind, column in self._columns.items():
            self._files[kind].write(np.ascontiguousarray(rows[kind], column.descr).data)
        if self.captions is not None:
            self.captions.extend(captions)
        self.rows += len(captions)

    def check(self, rows: Mapping[str, np.ndarray], count: int) -> None:
        """Refuse rows of another shape than was said, with a ValueError."""
        for kind, column in self._columns.items():
            if rows[kind].shape != (count, *column.shape):
                raise ValueError(f"{kind}: expected {(count, *column.shape)}, got {rows[kind].shape}")

    def close(self) -> None:
        """Put the files into their places.

        Raises:
            ValueError: the shard got fewer or more rows than its size.
        """
        if self.rows != self.size:
            self.abort()
            raise ValueError(f"{self.rows} rows were given for a shard of {self.size}")
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        write_replaced(replaced_path(self.folder, self.number), self.replaced)
        if self.captions is not None:
            write_captions(metadata_path(self.folder, self.number), self.captions)
        for kind in self._columns:
            path = shard_path(self.folder, kind, self.number)
            _temporary(path).replace(path)

    def abort(self) -> None:
        """Leave nothing behind."""
        for kind, file in self._files.items():
            with contextlib.suppress(OSError):
                file.close()
                _temporary(shard_path(self.folder, kind, self.number)).unlink(missing_ok=True)


def is_complete(folder: Path, number: int, columns: Mapping[str, Column], captions: bool) -> bool:
    """Whether all files of a shard are there; each is there whole or not at all."""
    paths = [shard_path(folder, kind, number) for kind in columns]
    return all(path.exists() for path in [*paths, *([metadata_path(folder, number)] if captions else [])])


def write_replaced(path: Path, replaced: Sequence[tuple[int, int]]) -> None:
    """Write the rows of a shard that hold another pair's embeddings, and whose, atomically; no file if there are none.

    Call it before the shard's other files get their names, so that a complete shard never lacks this file.
    """
    path.unlink(missing_ok=True)  # Of a shard that has been made before.
    if replaced:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path).open("wb") as file:
            np.save(file, np.array(replaced, np.int64), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        _temporary(path).replace(path)


def read_replaced(folder: Path, size: int) -> np.ndarray:
    """(K, 2) int64: the rows of a split of `size` rows that hold another pair's embeddings, in order, and whose.

    Raises:
        InputError: a file that is damaged or of something else; the line names it.
    """
    parts = [np.zeros((0, 2), np.int64)]
    for path in numbered(folder, REPLACED).values():
        found = open_array([path], ["int64"], (2,), "run `unclip embed` again").parts[0].array
        if len(found) and (found.min() < 0 or found.max() >= size):
            raise InputError(f"{path}: names row {found.max()} of {size}; run `unclip embed` again")
        parts.append(found)
    return np.concatenate(parts)


MAX_ROWS = 2**26
"""Of a shard: clip-retrieval's have a million."""
MAX_CAPTIONS = 2**30
"""Bytes of a shard's captions; a million have 50 MB."""


def has_parquet() -> bool:
    """Whether captions can be written as parquet here."""
    return find_spec("pyarrow") is not None


def write_captions(path: Path, captions: Sequence[str | None]) -> None:
    """Write a parquet file with the column "caption", atomically."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        parquet.write_table(arrow.table({"caption": arrow.array(list(captions), arrow.string())}), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_captions(path: Path) -> Any:
    """The column "caption" of a parquet file: a pyarrow array of n strings, nulls among them where a caption lacked.

    Raises:
        InputError: the package is missing, the file is no parquet, or has no such column of text.
    """
    if not has_parquet():
        raise InputError(f"{path}: reading parquet needs the package pyarrow: {INSTALL}")
    parquet = import_module("pyarrow.parquet")
    try:
        with open_regular(path) as file, parquet.ParquetFile(file, read_dictionary=["caption"]) as opened:
            column = _caption_column(opened, path)
    except InputError:
        raise
    except KeyError as error:  # pyarrow looks the column up before it can be asked for.
        raise InputError(f"{path}: has no column 'caption'") from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these
        raise InputError(f"{path}: not readable as parquet ({' '.join(str(error).split())})") from error
    try:
        column.validate(full=True)
    except ValueError as error:
        raise InputError(f"{path}: the column 'caption' is not UTF-8 ({' '.join(str(error).split())})") from error
    return column


def _caption_column(opened: Any, path: Path) -> Any:
    """The column "caption" of an open parquet file, of bounded size.

    A small file may hold a huge table: pages are compressed, and a text that occurs often is stored once. So the sizes
    that the file states are looked at first, and each text once; only then are they written out.
    """
    arrow, compute = import_module("pyarrow"), import_module("pyarrow.compute")
    about = opened.metadata
    kind = opened.schema_arrow.field("caption").type
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise InputError(f"{path}: the column 'caption' holds {kind}, no text")
    columns = [about.row_group(k).column(c) for k in range(about.num_row_groups) for c in range(about.num_columns)]
    stated = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "caption")
    if about.num_rows > MAX_ROWS or stated > MAX_CAPTIONS:
        raise InputError(f"{path}: says that it holds {about.num_rows:,} captions of {stated:,} bytes in one shard")
    parts, left = [arrow.array([], kind)], MAX_CAPTIONS
    for batch in opened.iter_batches(65_536, columns=["caption"]):
        part = batch.column(0)
        if arrow.types.is_dictionary(part.type):
            lengths = compute.binary_length(part.dictionary).take(part.indices)
            left -= compute.sum(lengths).as_py() or 0
            if left < 0:
                raise InputError(f"{path}: its captions have over {MAX_CAPTIONS:,} bytes, more than a shard's may have")
            part = part.dictionary_decode()
        parts.append(part)
    return arrow.chunked_array(parts, kind).combine_chunks()


def rows_without_caption(column: Any) -> np.ndarray:
    """(K,) the rows of a column from `read_captions` that are null or blank."""
    compute = import_module("pyarrow.compute")
    blank = compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(column)), 0)
    return np.flatnonzero(compute.fill_null(blank, True).to_numpy(zero_copy_only=False))


def remove_unfinished(folder: Path) -> None:
    """Delete the unfinished files that killed processes have left."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
