"""The captions of a split: several a pair, each with its source, packed into arrays, drawn with given shares."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from datamodules.captions import CaptionConfig
from datamodules.pictures.packed import Numbers, PackedStrings, Strings

AT_ONCE = 1 << 16
"""Pairs that are counted or hashed at a time."""


class CaptionTable:
    """The captions of all pairs of a source, at least one each: their texts in one piece, 4 bytes each for their ends.

    8 bytes a pair more are kept if a pair has several, 2 bytes a caption if there are several sources.

    Args:
        pairs: for each pair, its (source, caption) in order; taken one by one and not kept.
    """

    def __init__(self, pairs: Iterable[Sequence[tuple[str, str]]]) -> None:
        numbers: dict[str, int] = {}
        sources, starts = array("h"), array("q", [0])

        def texts() -> Iterator[str]:
            for captions in pairs:
                for source, text in captions:
                    sources.append(numbers.setdefault(source, len(numbers)))
                    yield text
                starts.append(starts[-1] + len(captions))

        self.texts = PackedStrings(texts())
        self.names = list(numbers)
        self.pairs = len(starts) - 1
        self._sources = Numbers(sources) if len(numbers) > 1 else None
        self._starts = Numbers(starts) if len(self.texts) != self.pairs else None

    def __len__(self) -> int:
        return self.pairs

    def span(self, pair: int) -> tuple[int, int]:
        """The captions of a pair, as a slice of `texts`."""
        if self._starts is None:
            return pair, pair + 1
        return int(self._starts.values[pair]), int(self._starts.values[pair + 1])

    def spans(self, pairs: np.ndarray) -> np.ndarray:
        """(n, 2) int64, `span` of several pairs."""
        if self._starts is None:
            return np.stack([pairs, pairs + 1], axis=1).astype(np.int64)
        starts = self._starts.values
        return np.stack([starts[pairs], starts[pairs + 1]], axis=1)

    def sources(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) the numbers, in `names`, of the sources of a slice of `texts`."""
        return np.zeros(stop - start, np.int16) if self._sources is None else self._sources.values[start:stop]


class Captions:
    """Captions of n pairs: some of a table's, drawn with the shares of a configuration.

    Args:
        table: the captions of a source.
        config: how they are drawn.
        rows: (n,) the pairs of the table, increasing; None for all.
    """

    def __init__(self, table: CaptionTable, config: CaptionConfig, rows: Numbers | None = None) -> None:
        self.table, self.draws, self._rows = table, config.draw, rows
        self.shares = np.array([config.shares.get(name, 0.0) for name in table.names]) if config.shares else None
        self._count = sum(int((spans[:, 1] - spans[:, 0]).sum()) for spans in self._spans())

    def __len__(self) -> int:
        return len(self.table if self._rows is None else self._rows)

    @property
    def several(self) -> bool:
        """Whether draws differ from pass to pass."""
        return self.draws and self._count > len(self)

    @property
    def texts(self) -> Texts:
        """All captions of all pairs."""
        return Texts(self)

    def count(self) -> int:
        """Captions of all pairs together."""
        return self._count

    def all_of(self, pair: int) -> list[str]:
        """The captions of a pair, in order."""
        return self.table.texts[slice(*self.table.span(self._row(pair)))]

    def span(self, pair: int) -> tuple[int, int]:
        """The captions of a pair, as a slice of the table's texts."""
        return self.table.span(self._row(pair))

    def first(self, pair: int) -> str:
        """The pair's caption outside training: the first of its source with the largest share."""
        start, end = self.table.span(self._row(pair))
        best = 0 if self.shares is None else np.argmax(self.shares[self.table.sources(start, end)])
        return self.table.texts[int(start + best)]

    def drawn(self, pair: int, rng: np.random.Generator) -> str:
        """One of the pair's captions: a source by its share, then any of that source's."""
        start, end = self.table.span(self._row(pair))
        if not self.draws or end - start == 1:
            return self.first(pair)
        if self.shares is None:
            return self.table.texts[int(rng.integers(start, end))]
        sources = self.table.sources(start, end)
        weights = self.shares[sources] / np.bincount(sources)[sources]  # A share is the source's, not each caption's.
        if not weights.any():
            weights = np.ones(len(sources))
        return self.table.texts[int(start + rng.choice(len(sources), p=weights / weights.sum()))]

    def all_first(self) -> list[str]:
        """`first` of every pair."""
        return [self.first(pair) for pair in range(len(self))]

    def digest(self, keys: Iterable[str]) -> str:
        """Hash of the keys and of all captions with their sources.

        What is hashed are the texts; their ends; the number of each caption's source among the names that occur, in
        order; the ends of the pairs. These arrays are made piece by piece: they need not be in memory.
        """
        hashed = hashlib.sha256()
        for key in keys:
            hashed.update(key.encode("utf-8", "surrogateescape") + b"\0")
        for part in (self._pieces_of_text(), self._ends(), self._source_numbers(), self._pair_ends()):
            for piece in part:
                hashed.update(piece.tobytes())
        return hashed.hexdigest()[:16]

    def _row(self, pair: int) -> int:
        if not 0 <= pair < len(self):
            raise IndexError(pair)
        return int(pair) if self._rows is None else int(self._rows.values[pair])

    def _spans(self) -> Iterator[np.ndarray]:
        """`table.spans` of all pairs, some at a time."""
        for first in range(0, len(self), AT_ONCE):
            pairs = np.arange(first, min(first + AT_ONCE, len(self)))
            yield self.table.spans(pairs if self._rows is None else self._rows.values[pairs])

    def _runs(self) -> Iterator[tuple[int, int]]:
        """The captions of all pairs as slices of the table's texts, neighbours joined."""
        for spans in self._spans():
            cuts = np.flatnonzero(spans[1:, 0] != spans[:-1, 1]) + 1
            yield from zip(
                spans[np.r_[0, cuts], 0].tolist(), spans[np.r_[cuts, len(spans)] - 1, 1].tolist(), strict=True
            )

    def _pieces_of_text(self) -> Iterator[np.ndarray]:
        for start, stop in self._runs():
            first, *_, last = self.table.texts.bounds(start, stop).tolist()
            yield self.table.texts.data[first:last]

    def _ends(self) -> Iterator[np.ndarray]:
        total = np.zeros(1, np.int64)
        yield total
        for start, stop in self._runs():
            bounds = self.table.texts.bounds(start, stop)
            yield bounds[1:] - bounds[0] + total
            total = total + bounds[-1] - bounds[0]

    def _source_numbers(self) -> Iterator[np.ndarray]:
        occur = {int(k) for start, stop in self._runs() for k in np.unique(self.table.sources(start, stop))}
        names = sorted(self.table.names[k] for k in occur)
        numbers = np.array([names.index(name) if name in names else -1 for name in self.table.names], np.int64)
        for start, stop in self._runs():
            yield numbers[self.table.sources(start, stop)]

    def _pair_ends(self) -> Iterator[np.ndarray]:
        total = np.zeros(1, np.int64)
        yield total
        for spans in self._spans():
            ends = np.cumsum(spans[:, 1] - spans[:, 0]) + total
            yield ends
            total = ends[-1:]


class Texts(Strings):
    """The captions of all pairs of `Captions`, pair after pair."""

    def __init__(self, captions: Captions) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return self._captions.count()

    def _at(self, index: int) -> str:
        return next(itertools.islice(self, index, None))

    def _some(self, places: range) -> list[str]:
        return list(itertools.islice(self, places.start, places.stop, places.step))

    def __iter__(self) -> Iterator[str]:
        return (text for pair in range(len(self._captions)) for text in self._captions.all_of(pair))
