"""What `unclip data check` found in one split."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from datamodules.faults import Fault

SHOWN = 24
"""Pairs on a split's contact sheet."""


@dataclass
class SplitReport:
    """What a pass over one split found.

    Attributes:
        split: its name.
        pairs: number of pairs that can be used, as far as the lists tell.
        looked_at: pairs whose picture was read; fewer than `pairs` with a limit.
        side: of the pictures as training gets them, in pixels.
        files: (width, height) of the picture files, where there are files.
        digests: content hash -> the pairs that have it.
        words: words of each caption.
        tokens: tokens of each caption with the CLIP's tokeniser; empty without.
        context: tokens that fit; None where it is not known.
        captions: all of them, by index.
        faults: what cannot be used.
        seconds: that reading took.
        sheet: (index, caption, picture) of some pairs.
    """

    split: str
    pairs: int
    looked_at: int = 0
    side: int = 0
    files: list[tuple[int, int]] = field(default_factory=list)
    digests: dict[bytes, list[int]] = field(default_factory=dict)
    words: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    context: int | None = None
    captions: Sequence[str] = ()
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    sheet: list[tuple[int, str, Image.Image]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Pairs a second, read and made ready in one process."""
        return self.looked_at / self.seconds if self.seconds else 0.0

    @property
    def duplicates(self) -> list[list[int]]:
        """Groups of pairs whose pictures are the same, the largest first."""
        groups = [pairs for pairs in self.digests.values() if len(pairs) > 1]
        return sorted(groups, key=lambda pairs: (-len(pairs), pairs))

    @property
    def too_long(self) -> int:
        """Captions that the context does not hold: their end is not seen, or they are refused."""
        counted = self.tokens or self.words
        return 0 if self.context is None else sum(count > self.context for count in counted)

    def spread(self, values: Sequence[int]) -> str:
        """'3 to 12, median 5'."""
        if not values:
            return "none"
        return f"{min(values):,} to {max(values):,}, median {statistics.median(values):,.4g}"


def across_splits(reports: Sequence[SplitReport]) -> list[tuple[str, int, str, int]]:
    """(split, index, other split, index) of pictures that are in two splits: what is tested has been trained on."""
    found = []
    for k, one in enumerate(reports):
        for other in reports[k + 1 :]:
            shared = one.digests.keys() & other.digests.keys()
            pairs = [(one.split, one.digests[key][0], other.split, other.digests[key][0]) for key in shared]
            found += sorted(pairs, key=lambda pair: (pair[1], pair[3]))
    return found
