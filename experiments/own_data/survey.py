"""The facts about a data set that `unclip new` needs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.base import SPLITS
from datamodules.pictures.module import PictureDataModule, SplitConfig
from experiments.data.check import check_split
from experiments.data.sources import make_data, section_of
from modules.errors import InputError

LEAST_PAIRS = 100
"""Fewer pairs train nothing, and leave none to test on."""

TESTED, TESTED_SHARE = 260, 0.1
"""Pairs that are held out for testing, and for validation: so many, or that share of a small set."""

FEW, ALLOWED = 500, 5
"""With fewer pairs than FEW, so many unreadable pictures are ALLOWED, which may be more than the usual 1 %."""


@dataclass(frozen=True)
class Survey:
    """A data set, seen from outside.

    Attributes:
        section: class_path and init_args of its DataModule, with `splits` that add up.
        sizes: split -> pairs.
        side: the median of the pictures' shorter sides, in pixels.
        smallest: the least of them.
        words: the different words of the training captions, lower case, parted by spaces.
        unread: share of the test captions with a word that no training caption has.
        longest: words of the longest caption of any split.
        captions: captions of the training split, at most 2,000.
        several: whether pairs have several captions.
        faults: pairs that cannot be used.
        own_splits: splits for which the data have a source of their own.
    """

    section: dict[str, Any]
    sizes: dict[str, int]
    side: int
    smallest: int
    words: int
    unread: float
    longest: int
    captions: Sequence[str]
    several: bool
    faults: int
    own_splits: tuple[str, ...]

    @property
    def pairs(self) -> int:
        """Pairs of all splits."""
        return sum(self.sizes.values())


def look(place: str, captions_from: str = "auto", limit: int = 200) -> Survey:
    """Look at what lies at a place.

    Args:
        place: as `unclip data check` takes it.
        captions_from: where a folder of pictures has its captions, see `ImageFolderDataModule`.
        limit: pictures to open.

    Raises:
        InputError: there are no such data, no pictures with captions, or fewer than LEAST_PAIRS.
    """
    section = _section(place, captions_from)
    data, _ = make_data(section)
    if not isinstance(data, PictureDataModule):
        raise InputError(f"--data {place}: {section['class_path']} makes its pictures itself; `unclip new` reads files")
    own = tuple(split for split in ("val", "test") if data.sources[split] != data.sources["train"])
    section["init_args"]["splits"] = _splits(data, place, own)
    if sum(data.size(split) for split in SPLITS if split not in own) < FEW:
        section["init_args"]["faults"] = {"max_skipped": ALLOWED}
    data, _ = make_data(section)
    assert isinstance(data, PictureDataModule)
    report = check_split(data, "train", limit)
    if not report.files:
        raise InputError(f"--data {place}: none of {limit} pictures could be opened; see `unclip data check {place}`")
    sides = sorted(min(size) for size in report.files)
    known = set(data.vocabulary())
    tests = data.captions("test")
    return Survey(
        section=section,
        sizes={split: data.size(split) for split in SPLITS},
        side=round(statistics.median(sides)),
        smallest=sides[0],
        words=len(known),
        unread=sum(not known.issuperset(text.lower().split()) for text in tests) / len(tests),
        longest=max(len(text.split()) for split in SPLITS for text in data.texts(split)),
        captions=list(data.texts("train")[:2000]),
        several=data.pairs("train").captions.several,
        faults=sum(len(data.log(split).found) for split in SPLITS) + len(report.faults),
        own_splits=own,
    )


def _section(place: str, captions_from: str) -> dict[str, Any]:
    """class_path and init_args; paths of this machine are made absolute, so that the suite runs from any folder."""
    section = section_of(place)
    arguments = section["init_args"]
    for key in ("train", "folder", "path"):
        if key in arguments and Path(str(arguments[key])).expanduser().exists():
            arguments[key] = str(Path(arguments[key]).expanduser().resolve())
    if section["class_path"].endswith("ImageFolderDataModule"):
        arguments["captions_from"] = captions_from
    elif captions_from != "auto":
        raise InputError(f"--captions-from {captions_from} is for a folder of pictures, and {place} is none")
    return section


def _splits(data: PictureDataModule, place: str, own: Sequence[str]) -> dict[str, int]:
    """`splits` whose numbers are what they say.

    Raises:
        InputError: fewer pairs than LEAST_PAIRS.
    """
    held_out = [split for split in ("val", "test") if split not in own]
    pairs = sum(data.size(split) for split in ("train", *held_out))
    if pairs < LEAST_PAIRS:
        raise InputError(f"--data {place}: {pairs} pairs are too few to train on; {LEAST_PAIRS} are the least")
    count = min(TESTED, round(TESTED_SHARE * pairs))
    sizes = {
        f"{split}_size": count if split in held_out else min(TESTED, data.size(split)) for split in ("val", "test")
    }
    SplitConfig(**sizes)
    return sizes
