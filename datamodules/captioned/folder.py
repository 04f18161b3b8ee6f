"""A folder of captions that a captioner wrote: one a pair, split by split, in the order of the pairs.

FOLDER/captions.json        who wrote them, of which pictures, how many
FOLDER/train/00000.txt      captions, one a line, of the first `shard_rows` pairs; and so on
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.base import SPLITS, check_split
from datamodules.pictures.packed import PackedStrings
from modules.errors import InputError
from modules.untrusted.reading import read_bytes, read_json, within

MANIFEST = "captions.json"
MAX_MANIFEST = 2**24
MAX_SHARD = 2**30
_AGAIN = "run `unclip caption` on these data, or name another folder"


@dataclass(frozen=True)
class CaptionsInfo:
    """The content of captions.json.

    Attributes:
        captioner: identifies what wrote the captions.
        sizes: split -> captions; the splits that are complete.
        pictures: split -> hash of the pairs whose pictures were captioned.
        settings: what else decides the captions, such as the temperature.
    """

    captioner: str
    sizes: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def open_captions(folder: str | Path) -> CaptionsInfo:
    """Open a folder of captions: the content of its captions.json.

    Raises:
        InputError: no such folder, or captions.json is not what `unclip caption` writes.
    """
    path = Path(folder).expanduser() / MANIFEST
    try:
        content = read_json(path, MAX_MANIFEST)
        info = CaptionsInfo(**content)
        numbers = all(type(size) is int and size >= 0 for size in info.sizes.values())
        if not isinstance(info.captioner, str) or set(info.sizes) - set(SPLITS) or not numbers:
            raise ValueError("captioner is text, sizes are numbers of train, val and test")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make the folder with `unclip caption`") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a description of captions ({error}); {_AGAIN}") from error
    return info


def written_captions(folder: str | Path, split: str, size: int, pictures: str) -> PackedStrings:
    """The captions of a split, one a pair; "" where the captioner wrote none.

    Args:
        folder: that `unclip caption` wrote.
        split: "train", "val" or "test".
        size: pairs of the split.
        pictures: hash of the pairs, see `PairDataModule.pictures_hash`.

    Raises:
        InputError: no captions of the split, captions of other pairs, or of another number of them.
    """
    path, info = Path(folder).expanduser(), open_captions(folder)
    if check_split(split) not in info.sizes:
        there = ", ".join(info.sizes) or "none"
        raise InputError(f"{path}: no captions of the {split} split (there: {there}); {_AGAIN}")
    if info.sizes[split] != size or info.pictures.get(split) != pictures:
        raise InputError(
            f"{path}: the {split} captions are of other pairs ({info.sizes[split]}, hash {info.pictures.get(split)}) "
            f"than these ({size}, hash {pictures}); {_AGAIN}"
        )
    found = PackedStrings(_lines(path / split))
    if len(found) != size:
        raise InputError(f"{path / split}: {len(found)} captions, but {MANIFEST} says {size}; {_AGAIN}")
    return found


def _lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("[0-9]*.txt")):
        try:
            text = read_bytes(within(folder, path), MAX_SHARD).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
        yield from text.removesuffix("\n").split("\n") if text else []


def added_columns(added: Mapping[str, str], split: str, size: int, pictures: str) -> dict[str, PackedStrings]:
    """Source -> the captions of its folder; see `written_captions`."""
    return {source: written_captions(folder, split, size, pictures) for source, folder in added.items()}
