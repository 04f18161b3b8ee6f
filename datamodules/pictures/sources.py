"""The base of all data of picture files: pairs are listed once and read when they are needed; faults are counted.

A subclass says what there is (`list_pairs`) and how a picture's bytes are read (`Reader`); splits, captions, decoding,
order, faults and batches are the same for all.

The training order hands out *draws*: index + (pass + 1) * n, so that a dataset knows which pass over the n pairs it is
in, and draws caption, crop and flip from (seed, pass, index). A plain index is the pair itself: its first caption,
the centre of its picture. Evaluation and `unclip embed` see that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.captions import CaptionConfig
from datamodules.embeddings.folder import EmbeddingRows
from datamodules.faults import Fault, FaultLog
from datamodules.pictures.caption_table import Captions, CaptionTable
from datamodules.pictures.decoding import PictureConfig, decode, mirrored
from datamodules.pictures.packed import Chosen, Numbers, PackedStrings, Packer
from datamodules.rendered.cache import hash_of
from datamodules.transforms import normalised
from modules.batches import ImageTextBatch
from modules.errors import InputError
from modules.images.files import PictureError

ATTEMPTS = 16
"""Pairs that are tried for one place of a batch before all of the data is taken to be unreadable."""


class Reader(Protocol):
    """Reads the files of a split's pictures; travels to loader processes."""

    def name(self, pair: int) -> str:
        """The name of a pair's picture in messages."""
        ...

    def read(self, pair: int) -> bytes:
        """The content of its file."""
        ...


class Entry(NamedTuple):
    """A pair as a format lists it.

    Attributes:
        key: names it within its split; decides the split where one has to be made.
        captions: (source, caption), at least one.
    """

    key: str
    captions: Sequence[tuple[str, str]]


class PairTable(NamedTuple):
    """All pairs of a source, packed.

    Attributes:
        keys: n keys.
        captions: of the n pairs.
    """

    keys: Sequence[str]
    captions: CaptionTable

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> PairTable:
        """Packs pairs, which are taken one by one and not kept."""
        keys = Packer()

        def captions() -> Iterator[Sequence[tuple[str, str]]]:
            for entry in entries:
                keys.add(entry.key)
                yield entry.captions

        table = CaptionTable(captions())
        return cls(PackedStrings(keys), table)


class ChosenReader:
    """Reads the pictures of some of the pairs of a source.

    Args:
        reader: of all pairs.
        rows: (n,) which pairs.
    """

    def __init__(self, reader: Reader, rows: Numbers) -> None:
        self.reader, self._rows = reader, rows

    def name(self, pair: int) -> str:
        return self.reader.name(int(self._rows.values[pair]))

    def read(self, pair: int) -> bytes:
        return self.reader.read(int(self._rows.values[pair]))


class Pairs:
    """The pairs of one split: what a Dataset holds in every process.

    Args:
        table: all pairs of the source.
        rows: (n,) those of the split, increasing.
        config: how captions are drawn.
        reader: of all pictures of the source.
    """

    def __init__(self, table: PairTable, rows: np.ndarray, config: CaptionConfig, reader: Reader) -> None:
        self.rows = Numbers.rows(rows, len(table.captions))
        self.keys = Chosen(table.keys, self.rows)
        self.captions = Captions(table.captions, config, self.rows)
        self.reader = reader if self.rows is None else ChosenReader(reader, self.rows)

    def __len__(self) -> int:
        return len(self.captions)

    def add_captions(self, columns: Mapping[str, Sequence[str]], config: CaptionConfig) -> None:
        """Give every pair a further caption of each source; "" is none."""
        table, own = self.captions.table, self.captions

        def all_of(pair: int) -> list[tuple[str, str]]:
            start, end = own.span(pair)
            named = [(table.names[k], table.texts[start + j]) for j, k in enumerate(table.sources(start, end).tolist())]
            return named + [(source, texts[pair]) for source, texts in columns.items() if texts[pair]]

        self.captions = Captions(CaptionTable(all_of(pair) for pair in range(len(own))), config)

    def digest(self) -> str:
        """Hash of keys and captions."""
        return self.captions.digest(self.keys)


class PictureDataset(Dataset[ImageTextBatch]):
    """n pairs; a list of indices or draws gives a batch, broken pictures replaced and counted.

    If a pair cannot be read, another one takes its place in the batch. It is drawn from (seed, pass, index), as
    everything else is. So batches stay full on every device, and a resumed run sees the same ones.

    Args:
        pairs: the split.
        size: side of the images in pixels.
        picture: how they are cut out.
        seed: of the draws.
        embeddings: rows to attach, or None.
        log: where faults are counted.
    """

    def __init__(
        self,
        pairs: Pairs,
        size: int,
        picture: PictureConfig,
        seed: int,
        embeddings: EmbeddingRows | None,
        log: FaultLog,
    ) -> None:
        self.pairs, self.size, self.picture, self.seed = pairs, size, picture, seed
        self.embeddings, self.log = embeddings, log

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> ImageTextBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ImageTextBatch:
        """Images (B, 3, size, size) float32 in [-1, 1]; `index` holds plain indices.

        Raises:
            InputError: as the fault policy has it.
        """
        batch = self.receive(*self.load(indices))
        return batch._replace(images=normalised(batch.images))

    def load(self, indices: Sequence[int]) -> tuple[ImageTextBatch | None, list[Fault]]:
        """The batch with images (B, 3, size, size) uint8, and what was wrong; raises nothing.

        The batch is None if no readable pair was found for a place.
        """
        faults: list[Fault] = []
        loaded = [self._load(int(index), faults) for index in indices]
        complete = [item for item in loaded if item is not None]
        if len(complete) < len(loaded):
            return None, faults
        chosen = [index for index, _, _ in complete]
        images = torch.from_numpy(np.stack([pixels for _, pixels, _ in complete])).permute(0, 3, 1, 2)
        rows = None if self.embeddings is None else self.embeddings[chosen]
        captions = [caption for _, _, caption in complete]
        return ImageTextBatch(images, captions, torch.tensor(chosen, dtype=torch.int64), embeddings=rows), faults

    def receive(self, batch: ImageTextBatch | None, faults: Sequence[Fault]) -> ImageTextBatch:
        """Counts the faults, in the process that trains.

        Raises:
            InputError: as the fault policy has it, or there is no batch.
        """
        for fault in faults:
            self.log.add(fault)
        if batch is None:
            raise InputError(f"{ATTEMPTS} pairs in a row cannot be read, the last: {faults[-1]}")
        return batch

    def plain(self, index: int, size: int) -> np.ndarray:
        """(size, size, 3) uint8: the centre of a pair's picture.

        Raises:
            InputError: it cannot be read.
        """
        reader = self.pairs.reader
        try:
            data = reader.read(index)
        except OSError as error:
            raise InputError(f"{reader.name(index)}: {error.strerror or error}") from error
        return decode(data, reader.name(index), size, self.picture)

    def _load(self, draw: int, faults: list[Fault]) -> tuple[int, np.ndarray, str] | None:
        """(index, pixels, caption) of a draw or, where its picture is broken, of another pair."""
        number, index = divmod(draw, len(self))
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng((self.seed, number, index, attempt)) if number or attempt else None
            at = int(rng.integers(len(self))) if attempt and rng is not None else index
            try:
                return self._read(at, rng if number else None)
            except Exception as error:
                # Whatever a decoder does with a damaged file, hours into a run: it is the file's fault, and is named.
                faults.append(_fault_of(self.pairs.reader.name(at), error))
        return None

    def _read(self, index: int, rng: np.random.Generator | None) -> tuple[int, np.ndarray, str]:
        reader, captions = self.pairs.reader, self.pairs.captions
        caption = captions.first(index) if rng is None else captions.drawn(index, rng)
        pixels = decode(reader.read(index), reader.name(index), self.size, self.picture, rng)
        if self.embeddings is not None and index in self.embeddings.replaced:
            name = reader.name(index)
            raise PictureError(f"{name}: its embeddings are of another pair", "no embeddings of its own", "embed again")
        return index, pixels if rng is None else mirrored(pixels, caption, self.picture, rng), caption


def _fault_of(name: str, error: Exception) -> Fault:
    if isinstance(error, PictureError):
        return Fault(name, error.kind, error.detail)
    if isinstance(error, FileNotFoundError):
        return Fault(name, "a missing file", "it was there when the pairs were listed")
    return Fault(name, "a picture that cannot be read", f"{type(error).__name__}: {' '.join(str(error).split())}")


def choose_split(
    keys: Sequence[str], part: str, held_out: Mapping[str, float], least: Mapping[str, int] | None = None
) -> np.ndarray:
    """The pairs of one part of a source that is shared out by the hash of the key: the same on every machine.

    Args:
        keys: of the whole source.
        part: "train", or a key of `held_out`.
        held_out: part -> share of the pairs; what is left is "train".
        least: part -> pairs that it holds at least, while there are enough.

    Returns:
        (n,) int64, the rows of the part, increasing. A part with a share is never empty while there are enough pairs.
    """
    places = np.fromiter((hash_of(f"split {key}") / 2**64 for key in keys), np.float64, len(keys))
    order = np.argsort(places, kind="stable")
    places = places[order]
    start, taken, bound, enlarged = 0, {}, 0.0, False
    for name, share in held_out.items():
        first, last = np.searchsorted(places, [bound, bound + share]).tolist()
        bound += share
        end = max(last, start + int(share > 0))
        if enlarged:  # The part before has taken pairs of this one's, which keeps its number.
            end = max(end, start + last - first)
        wanted = start + (least or {}).get(name, 0)
        enlarged |= wanted > end
        end = max(end, wanted)
        taken[name], start = order[start:end], end
    return np.sort(taken.get(part, order[start:]))


def sample(keys: Sequence[str], rows: np.ndarray, size: int | None) -> np.ndarray:
    """At most `size` of the rows, a fair sample in their order: a smaller one is part of a larger."""
    if size is None or size >= len(rows):
        return rows
    hashes = np.fromiter((hash_of(keys[int(row)]) for row in rows), np.uint64, len(rows))
    return np.sort(rows[np.argsort(hashes, kind="stable")[:size]])


def renderer(dataset: PictureDataset, size: int) -> Callable[[int], np.ndarray]:
    """index -> (size, size, 3) uint8."""
    return partial(_plain, dataset, size)


def _plain(dataset: PictureDataset, size: int, index: int) -> np.ndarray:
    return dataset.plain(index, size)
