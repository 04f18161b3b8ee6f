"""Any data set of the Hugging Face library with a picture column and a caption column, from the disk or its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from datamodules.captions import GROUND_TRUTH, CaptionConfig, usable
from datamodules.faults import Fault, FaultPolicy
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.library_folder import check_folder, library_caches, picture_below
from datamodules.pictures.module import Listed, PictureDataModule, SplitConfig
from datamodules.pictures.sources import Entry, PairTable
from modules.errors import InputError
from modules.images.files import PictureError

LIST_AT_ONCE = 4096


class HuggingFaceDataModule(PictureDataModule):
    """Pairs of a data set that `datasets.load_dataset` or `datasets.load_from_disk` opens.

    Pictures are read as the bytes that the data set stores, not decoded by it. Code that a data set brings along is
    never run. No file is read that it names elsewhere, unless `faults.follow_links` says that the data are your own.

    Args:
        path: a folder that `save_to_disk` wrote, a folder or name that `load_dataset` takes.
        name: of the data set's configuration, where it has several.
        train: its split for training, as `load_dataset` writes it ("train", "train[:90%]").
        val: name of the validation split. With null, `splits.val_share` of the training split is held out.
        test: name of the test split; null in the same way.
        image_column: holds the pictures, or their bytes, or names of files in the data set's folder.
        image_size: side of the images in pixels.
        batch_size: pairs a batch and process, in training and in evaluation.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: not used by this format; the library keeps its own (HF_HOME).
        seed: of the training order and of what is drawn anew in every pass.
        num_workers: loader processes.
        captions: columns, shares and length of captions; by default the column `text`. A list is several captions.
        picture: crop, flip, decoding.
        splits: sizes and shares.
        faults: what happens with pairs that cannot be used.

    Raises:
        InputError: the package `datasets` is missing, no such data set, split or column, more faults than allowed.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        image_column: str = "image",
        image_size: int = 64,
        batch_size: int = 64,
        embeddings: str | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        captions: CaptionConfig = CaptionConfig(),
        picture: PictureConfig = PictureConfig(),
        splits: SplitConfig = SplitConfig(),
        faults: FaultPolicy = FaultPolicy(),
    ) -> None:
        sources = {"train": train, "val": val, "test": test}
        super().__init__(
            sources, image_size, batch_size, embeddings, cache_dir, seed, num_workers, captions, picture, splits, faults
        )
        self.path, self.name, self.image_column = path, name, image_column

    def list_pairs(self, source: str) -> Listed:
        columns = self.caption_config.columns or {GROUND_TRUTH: "text"}
        folder = Path(self.path).expanduser()
        if folder.is_dir() and not self.faults.follow_links:
            check_folder(folder)
        rows = _as_stored(load(self.path, self.name, source), self.image_column, self.path)
        homes = [] if self.faults.follow_links else [folder] if folder.is_dir() else library_caches()
        for column in columns.values():
            if column not in rows.column_names:
                raise InputError(
                    f"{self.path}: no column {column!r}; it has {', '.join(rows.column_names)}. Name the caption's in "
                    "captions.columns, as {ground_truth: COLUMN}"
                )
        faults: list[Fault] = []

        def entries() -> Iterator[Entry]:
            for number, row in enumerate(_texts(rows, list(columns.values()))):
                place = f"{self.path}[{source}] row {number}"
                values = [(label, row[column]) for label, column in columns.items()]
                captions, wrong = usable(values, place, self.caption_config.max_words)
                faults.extend(wrong)
                if captions:
                    yield Entry(f"{number}", captions)

        table = PairTable.of(entries())
        return Listed(table, faults, RowReader(rows, self.image_column, f"{self.path}[{source}]", table.keys, homes))


class RowReader:
    """Reads pictures out of rows; the keys are the rows' numbers, and files that rows name lie below `homes`."""

    def __init__(self, rows: Any, column: str, label: str, keys: Sequence[str], homes: Sequence[Path] = ()) -> None:
        self.rows, self.column, self.label, self.keys = rows.select_columns([column]), column, label, keys
        self.homes = list(homes)

    def name(self, pair: int) -> str:
        return f"{self.label} row {self.keys[pair]}"

    def read(self, pair: int) -> bytes:
        value = self.rows[int(self.keys[pair])][self.column]
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str):
            return picture_below(value, self.homes, self.name(pair))
        if isinstance(value, bytes):
            return value
        raise PictureError(f"{self.name(pair)} holds no picture", "no picture")


def load(path: str, name: str | None, split: str) -> Any:
    """One split of a data set.

    Raises:
        InputError: the package `datasets` is missing, or there is no such data set or split.
    """
    if find_spec("datasets") is None:
        raise InputError('Hugging Face data sets need the package datasets: `pip install -e ".[hf]"`')
    import datasets

    folder = Path(path).expanduser()
    saved = any((folder / marker).exists() for marker in ("dataset_dict.json", "state.json"))
    try:
        if not saved:
            place = str(folder) if folder.exists() else path
            return datasets.load_dataset(place, name, split=split, **_no_code(datasets.load_dataset))
        found = datasets.load_from_disk(str(folder))
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    except KeyError as error:
        there = ", ".join(found)
        raise InputError(f"{path}: no split {split!r}; there are {there}") from error
    except Exception as error:  # The library raises many of its own, for data sets that are not there among others.
        raise InputError(f"{path}, split {split!r}: {' '.join(str(error).split())}") from error


def _no_code(function: Callable[..., Any]) -> dict[str, bool]:
    """The argument that keeps `datasets` below version 4 from running code that a data set brings along."""
    return {"trust_remote_code": False} if "trust_remote_code" in signature(function).parameters else {}


def _as_stored(rows: Any, column: str, path: str) -> Any:
    """The rows, their pictures as stored instead of decoded."""
    import datasets

    if column not in rows.column_names:
        raise InputError(f"{path}: no column {column!r}; it has {', '.join(rows.column_names)}. Set image_column")
    feature = rows.features[column]
    if isinstance(feature, datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    if getattr(feature, "dtype", None) in ("string", "large_string", "binary", "large_binary"):
        return rows
    raise InputError(f"{path}: column {column!r} holds {feature}, no pictures. Set image_column")


def _texts(rows: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The caption columns of every row, without reading a picture."""
    texts = rows.select_columns(list(dict.fromkeys(columns)))
    for start in range(0, len(texts), LIST_AT_ONCE):
        block = texts[start : start + LIST_AT_ONCE]
        yield from (dict(zip(block, values, strict=True)) for values in zip(*block.values(), strict=True))
