"""Strings and numbers of hundreds of millions of pairs in a few arrays, which loader processes share.

A list of Python objects costs 60 to 500 bytes a pair, and a loader process that only looks at one copies its memory
page, because that changes the reference count. A process that is forked never copies these arrays. They are tensors,
which a process that is spawned maps instead of receiving a copy.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import torch

BLOCK = 4096
"""Strings whose ends are counted from a common start, so that 4 bytes hold an end."""

_TYPES = {"h": np.int16, "i": np.int32, "q": np.int64}


class Numbers:
    """(n,) integers in memory that processes share.

    Args:
        values: the integers; an `array.array` is copied once.
    """

    def __init__(self, values: array[int] | np.ndarray) -> None:
        kind = _TYPES[values.typecode] if isinstance(values, array) else values.dtype
        self._values = torch.from_numpy(np.array(values, kind))

    @property
    def values(self) -> np.ndarray:
        """(n,), without a copy."""
        return self._values.numpy()

    @classmethod
    def rows(cls, chosen: np.ndarray, count: int) -> Numbers | None:
        """Increasing numbers of rows: None if they are all of `count` rows; 4 bytes each below 2^31."""
        return None if len(chosen) == count else cls(chosen.astype(np.int32 if count < 2**31 else np.int64))

    def __len__(self) -> int:
        return len(self._values)


class Packer:
    """Takes strings one by one and packs them.

    Attributes:
        data: their UTF-8.
        ends: of each, counted from its block's start.
        starts: of the blocks.
    """

    def __init__(self) -> None:
        self.data, self.ends, self.starts = bytearray(), array("i"), array("q", [0])

    def add(self, text: str) -> None:
        """Adds a string."""
        self.data += text.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.data) - self.starts[-1])
        if len(self.ends) % BLOCK == 0:
            self.starts.append(len(self.data))


class Strings(Sequence[str]):
    """A list of strings that are made when they are asked for; subclasses have a length and make one (`_at`)."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._some(range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._at(int(index))

    def __iter__(self) -> Iterator[str]:
        return map(self._at, range(len(self)))

    def _at(self, index: int) -> str:
        """The string at a place, 0 to len(self) - 1."""
        raise NotImplementedError

    def _some(self, places: range) -> list[str]:
        """Those at several places."""
        return [self._at(place) for place in places]


class PackedStrings(Strings):
    """A list of strings: their UTF-8 behind one another, and 4 bytes each for where they end.

    File names that are not UTF-8 pass through as Python has them.

    Args:
        strings: any number, which are taken one by one and not kept; or what a packer has taken.
    """

    def __init__(self, strings: Iterable[str] | Packer = ()) -> None:
        packer = strings if isinstance(strings, Packer) else Packer()
        if not isinstance(strings, Packer):
            for text in strings:
                packer.add(text)
        self._data = Numbers(np.frombuffer(packer.data, np.uint8))
        self._ends, self._starts = Numbers(packer.ends), Numbers(packer.starts)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def data(self) -> np.ndarray:
        """(bytes,) uint8: all strings behind one another."""
        return self._data.values

    def bounds(self, start: int, stop: int) -> np.ndarray:
        """(stop - start + 1,) int64: where each of a slice of the strings begins in `data`, and where the last ends."""
        places = np.arange(start, stop)
        ends = self._ends.values[start:stop] + self._starts.values[places // BLOCK]
        return np.concatenate([[self._end(start)], ends]).astype(np.int64)

    def _end(self, number: int) -> int:
        """Where the first `number` strings end."""
        if not number:
            return 0
        return int(self._starts.values[(number - 1) // BLOCK]) + int(self._ends.values[number - 1])

    def _at(self, index: int) -> str:
        return self.data[self._end(index) : self._end(index + 1)].tobytes().decode("utf-8", "surrogateescape")


class Chosen(Strings):
    """Some of the strings of a sequence, which are not copied.

    Args:
        strings: all of them.
        rows: (n,) which; None for all.
    """

    def __init__(self, strings: Sequence[str], rows: Numbers | None) -> None:
        self._strings, self._rows = strings, rows

    def __len__(self) -> int:
        return len(self._strings if self._rows is None else self._rows)

    def _at(self, index: int) -> str:
        return self._strings[index if self._rows is None else int(self._rows.values[index])]
