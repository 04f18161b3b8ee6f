"""The index of a .tar shard, made once, so that any process can read any pair at any time.

Keys and extensions are the webdataset library's: `000012.jpg`, `000012.txt` and `000012.json` are one pair. Names
with further dots are `shard_names`' business.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from datamodules.captions import usable
from datamodules.faults import Fault
from datamodules.pictures.packed import Numbers, PackedStrings, Strings
from datamodules.pictures.shard_names import RECORD, Group, Member, picture_of, sort_out
from modules.images.files import PictureError

PICKLES = ("pkl", "pickle", "pyd", "pth", "pt")
LONGEST = 1 << 20
"""Bytes of a caption or record; a longer member is not read."""


class NotAShard(Exception):
    """A file that is no plain tar archive; the argument says what it is instead."""


class Index(NamedTuple):
    """The pairs of a shard, and where they lie.

    Attributes:
        pairs: [key, offset, size, [[source, caption], ...]] of each pair.
        faults: what cannot be used.
        unused: extension, as "mask.png" -> how many pictures with it belong to another picture and are not used.
        whole: whether the archive ends as it should.
    """

    pairs: list[list[Any]]
    faults: list[Fault]
    unused: Counter[str]
    whole: bool


def index_shard(file: BinaryIO, name: str, columns: dict[str, str], max_words: int) -> Index:
    """The pairs of a shard.

    Args:
        file: the shard, seekable.
        name: what faults call it.
        columns: source -> extension of a member, or key of the pair's json, with its captions.
        max_words: a longer caption is a fault.

    Raises:
        NotAShard: not a tar archive, or a compressed one.
    """
    groups, faults, whole = _groups(file, name)
    found = Index([], faults, Counter(), whole)
    for key, group in groups.items():
        sorted_out = sort_out(group, list(columns.values()))
        found.unused.update(sorted_out.unused)
        names = ", ".join(group.names())
        lone = sorted_out.lone or ([] if sorted_out.pairs or sorted_out.bare else [""])
        found.faults.extend(Fault(_named(name, key, part), "a pair without a picture", names) for part in lone)
        for middle in (*sorted_out.pairs, *sorted_out.bare):
            captions, wrong = _captions(file, _named(name, key, middle), group, middle, columns, max_words)
            found.faults.extend(wrong)
            if captions:
                own = f"{key}.{middle}" if middle else key
                found.pairs.append([own, *picture_of(group, middle), [list(caption) for caption in captions]])
    return found


def _groups(file: BinaryIO, name: str) -> tuple[dict[str, Group], list[Fault], bool]:
    """The members by key, those that cannot be used, and whether the archive ends as it should."""
    groups: dict[str, Group] = {}
    faults: list[Fault] = []
    whole = True
    size = file.seek(0, os.SEEK_END)
    for path, member in _members(file, size):
        if path is None:
            whole = False
            continue
        key, extension = _key(path)
        if key is None:
            continue
        if path.startswith("/") or ".." in path.split("/"):
            faults.append(Fault(f"{name}:{path}", "a path that leads out of the shard"))
        elif not groups.setdefault(key, Group()).add(extension, member):
            faults.append(Fault(f"{name}:{path}", "a key that occurs twice"))
    return groups, faults, whole


def _named(shard: str, key: str, middle: str) -> str:
    return f"{shard}:{key}.{middle}" if middle else f"{shard}:{key}"


def _members(file: BinaryIO, size: int) -> Iterator[tuple[str | None, Member]]:
    """(path, member) of every regular file that is there completely; (None, ...) where the archive breaks off."""
    file.seek(0)
    try:
        tar = tarfile.open(fileobj=file, mode="r:", errors="surrogateescape")  # noqa: SIM115 - nothing to close
    except tarfile.TarError as error:
        raise NotAShard(_what_else(file) or f"no tar archive: {' '.join(str(error).split())}") from None
    while True:
        try:
            member = tar.next()
        except (tarfile.TarError, OSError, ValueError):
            yield None, (0, 0)
            return
        tar.members.clear()  # type: ignore[attr-defined]  # Otherwise it remembers them all.
        if member is None:
            file.seek(tar.offset)
            # tarfile takes a damaged or cut header for the end; a true end is a block of zeros.
            if file.read(512) != bytes(512):
                yield None, (0, 0)
            return
        if member.isreg():
            if member.offset_data + member.size > size:
                yield None, (0, 0)
                return
            yield member.name, (member.offset_data, member.size)


def _what_else(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(6)
    if not start:
        return "empty"
    if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start in (b"\xfd7zXZ\0",) or start[:4] == b"\x28\xb5\x2f\xfd":
        return "compressed: unpack it to a plain .tar, whose pairs can be read one by one"
    return "a pickle, which is never loaded" if start[:1] == b"\x80" else ""


def _key(path: str) -> tuple[str | None, str]:
    from webdataset.tariterators import base_plus_ext

    if re.match(r"__[^/]*__($|/)", path):  # webdataset's own notes
        return None, ""
    key, extension = base_plus_ext(path)
    return key, extension or ""


def _captions(
    file: BinaryIO, place: str, group: Group, middle: str, columns: dict[str, str], max_words: int
) -> tuple[list[tuple[str, str]], list[Fault]]:
    record: dict[str, Any] | None = None
    noted = group.find(middle, RECORD)
    values: list[tuple[str, Any]] = []
    for source, column in columns.items():
        member = group.find(middle, column)
        if member is not None:
            values.append((source, _content(file, member)))
        elif noted is not None:
            if record is None:
                record = _record(_content(file, noted))
                if record is None:
                    return [], [Fault(place, "a record that is not JSON")]
            values.append((source, record.get(column)))
    captions, faults = usable(values, place, max_words)
    names = ", ".join(group.names())
    faults = [replace(fault, detail=names) if fault.kind == "no caption" else fault for fault in faults]
    pickled = [name for name in group.names() if name.rpartition(".")[2] in PICKLES]
    if not captions and not values and pickled:
        return [], [Fault(place, "a pickle where a caption is expected", f"{pickled[0]}, never loaded")]
    return captions, faults


def _content(file: BinaryIO, member: Member) -> bytes | str:
    offset, size = member
    if size > LONGEST:
        return "long " * (LONGEST // 5)  # No caption has as many words, whatever the limit.
    file.seek(offset)
    return file.read(size)


def _record(content: bytes | str) -> dict[str, Any] | None:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        return None
    return record if isinstance(record, dict) else None


class Places(NamedTuple):
    """Where the pictures of all pairs are, 20 bytes a pair, as they are found: number of the shard, offset, size."""

    shard: array[int]
    offset: array[int]
    size: array[int]

    def add(self, shard: int, offset: int, size: int) -> None:
        """Adds a pair."""
        self.shard.append(shard)
        self.offset.append(offset)
        self.size.append(size)


class ShardKeys(Strings):
    """SHARD:KEY of every pair.

    Args:
        shards: names of the shards.
        keys: n keys, each unique within its shard.
        shard: n numbers of shards.
    """

    def __init__(self, shards: Sequence[str], keys: Sequence[str], shard: Numbers) -> None:
        self._shards, self._keys, self._shard = list(shards), keys, shard

    def __len__(self) -> int:
        return len(self._keys)

    def _at(self, index: int) -> str:
        return f"{self._shards[self._shard.values[index]]}:{self._keys[index]}"


class ShardReader:
    """Reads pictures out of shards.

    Args:
        shards: paths of local files, or URLs.
        keys: n keys.
        shard, offset, size: n integers each, where each picture is.
    """

    OPEN = 128

    def __init__(
        self, shards: Sequence[str], keys: PackedStrings, shard: Numbers, offset: Numbers, size: Numbers
    ) -> None:
        self.shards, self.keys = list(shards), keys
        self.shards_of, self._offset, self._size = shard, offset, size
        self._open: OrderedDict[str, int] = OrderedDict()

    @property
    def shard(self) -> np.ndarray:
        """(n,) the shard of each pair."""
        return self.shards_of.values

    def name(self, pair: int) -> str:
        return f"{self.shards[self.shard[pair]]}:{self.keys[pair]}"

    def read(self, pair: int) -> bytes:
        path, offset, size = self.shards[self.shard[pair]], self._offset.values[pair], int(self._size.values[pair])
        offset = int(offset)
        if "://" in path:
            import fsspec

            system, place = fsspec.core.url_to_fs(path)
            content = system.cat_file(place, start=offset, end=offset + size)
        else:
            # With the position in the call, processes can share the open file.
            content = os.pread(self._descriptor(path), size, offset)
        if len(content) < size:
            name = self.name(pair)
            raise PictureError(f"{name}: the shard is shorter than it was", "a shard that has shrunk")
        return content

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)
            if len(self._open) > self.OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def windowed(groups: np.ndarray, window: int) -> Callable[[np.random.Generator], np.ndarray]:
    """An order that reads a few shards at a time: shards shuffled, then the pairs of `window` shards among each other.

    Args:
        groups: (n,) int64, the shard of each pair.
        window: shards at a time.

    Returns:
        generator -> (n,) a permutation.
    """
    by_group = np.argsort(groups, kind="stable")
    parts = np.split(by_group, np.flatnonzero(np.diff(groups[by_group])) + 1)

    def permute(rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(parts))
        windows = [order[k : k + window] for k in range(0, len(order), window)]
        return np.concatenate([rng.permutation(np.concatenate([parts[k] for k in chosen])) for chosen in windows])

    return permute
