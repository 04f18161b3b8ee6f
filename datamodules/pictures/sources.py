"""What all data of picture files share: pairs are listed once, read when asked for, and faults are counted.

A subclass says what there is (`list_pairs`) and how a picture's bytes are read (`Reader`); splits, captions, decoding,
order, faults and batches are the same for all.

The training order hands out *draws*: index + (pass + 1) * n, so that a dataset knows which pass over the n pairs it is
in, and draws caption, crop and flip from (seed, pass, index). A plain index is the pair itself: its first caption,
the centre of its picture. Evaluation and `unclip embed` see that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.captions import CaptionConfig, Captions, PackedStrings
from datamodules.embeddings.folder import EmbeddingRows
from datamodules.faults import Fault, FaultLog
from datamodules.pictures.decoding import PictureConfig, decode, mirrored
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
        """What faults call the picture of a pair."""
        ...

    def read(self, pair: int) -> bytes:
        """The content of its file."""
        ...


class Entry(NamedTuple):
    """A pair as a format lists it.

    Attributes:
        key: names it within its split; decides the split where one has to be made.
        captions: (source, caption), at least one.
        place: where its picture is, as the format's reader wants it.
    """

    key: str
    captions: list[tuple[str, str]]
    place: Any


class Pairs:
    """The pairs of one split, packed: what a Dataset holds in every process."""

    def __init__(self, entries: Sequence[Entry], config: CaptionConfig, reader: Reader) -> None:
        self.keys = PackedStrings(entry.key for entry in entries)
        self.captions = Captions([entry.captions for entry in entries], config)
        self.reader = reader

    def __len__(self) -> int:
        return len(self.captions)

    def digest(self) -> str:
        """Hash of keys and captions."""
        return self.captions.digest(self.keys)


class PictureDataset(Dataset[ImageTextBatch]):
    """n pairs; a list of indices or draws gives a batch, broken pictures replaced and counted.

    A pair that cannot be read gives its place in the batch to another one, drawn from (seed, pass, index) as everything
    else is, so that batches stay full on every device and a resumed run sees the same ones.

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


def choose_split(entries: Sequence[Entry], part: str, held_out: dict[str, float]) -> list[Entry]:
    """The entries of one part of a source that is shared out by the hash of the key: the same on every machine.

    Args:
        entries: of the whole source.
        part: "train", or a key of `held_out`.
        held_out: part -> share of the entries; what is left is "train".

    Returns:
        The part, in the order of `entries`. A part with a share is never empty while there are enough entries.
    """
    places = [hash_of(f"split {entry.key}") / 2**64 for entry in entries]
    order = np.argsort(places, kind="stable").tolist()
    start, taken, bound = 0, {}, 0.0
    for name, share in held_out.items():
        bound += share
        end = max(int(np.searchsorted([places[k] for k in order], bound)), start + (share > 0))
        taken[name], start = order[start:end], end
    chosen = sorted(taken.get(part, order[start:]))
    return [entries[k] for k in chosen]


def sample(entries: Sequence[Entry], size: int | None) -> list[Entry]:
    """At most `size` entries, a fair sample in their order: a smaller one is part of a larger."""
    if size is None or size >= len(entries):
        return list(entries)
    order = np.argsort([hash_of(entry.key) for entry in entries], kind="stable")
    return [entries[k] for k in sorted(order[:size].tolist())]


def renderer(dataset: PictureDataset, size: int) -> Callable[[int], np.ndarray]:
    """index -> (size, size, 3) uint8."""
    return partial(_plain, dataset, size)


def _plain(dataset: PictureDataset, size: int, index: int) -> np.ndarray:
    return dataset.plain(index, size)
