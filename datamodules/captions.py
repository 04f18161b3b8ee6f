"""Captions: where they are, what can be one, and which of a pair's several is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from datamodules.faults import Fault
from modules.errors import InputError

GROUND_TRUTH = "ground_truth"


@dataclass(frozen=True)
class CaptionConfig:
    """Where captions are, and which of a pair's several is shown.

    Attributes:
        columns: source -> column, field or file extension that holds its captions, as {ground_truth: text, synthetic:
            recaption}; empty means the format's usual one, as ground_truth.
        shares: source -> share of the draws in training, among the sources that a pair has; empty draws uniformly from
            all captions. A source without a share is drawn only where a pair has no other.
        draw: false always shows the first caption (with `shares`, of the source with the largest share).
        max_words: a longer caption is a fault; text encoders would not see its end.
        added: source -> folder that `unclip caption` wrote for these pictures: further captions, one a pair.

    Raises:
        InputError: a source that is both in `columns` and in `added`; a share that is negative or of no known source,
            shares that are all 0, a bound below 1.
    """

    columns: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    draw: bool = True
    max_words: int = 256
    added: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise InputError(f"captions.max_words must be 1 or more, got {self.max_words}")
        known = set(self.columns) or {GROUND_TRUTH}
        if known & set(self.added):
            raise InputError(f"captions.added names {min(known & set(self.added))!r}, which is a source already")
        known |= set(self.added)
        for source, share in self.shares.items():
            if source not in known:
                raise InputError(f"captions.shares names {source!r}; there are {', '.join(sorted(known))}")
            if not 0 <= share < math.inf:
                raise InputError(f"captions.shares: the share of {source} is {share}, it must be 0 or more")
        if self.shares and not sum(self.shares.values()) > 0:
            raise InputError("captions.shares are all 0: give at least one source a share")

    def refuse_columns(self, what: str) -> None:
        """Refuse `columns` for data whose captions have no columns.

        Raises:
            InputError: `columns` names some.
        """
        if self.columns:
            raise InputError(f"captions.columns is {self.columns}, but {what} have no columns: leave it out")


LONGEST_WORD = 64
"""Characters that a word may have on average before a caption is too long."""


UNSPLIT = 1024
"""Letters that a word may have: byte pair encoding takes the square of them. Scripts without spaces stay below."""


_RUNS = re.compile(r"[^\W\d_]+|\d+|[\W_]+")


class CaptionFault(Exception):
    """A text that cannot be a caption; the first argument says why in words that are the same for all such texts."""


def clean(value: Any, max_words: int) -> str:
    """A caption as one line, with single spaces between its words.

    Args:
        value: a string, bytes of UTF-8 with or without a byte order mark, or something that is no caption.
        max_words: a longer one is refused, and so is one of more than 64 characters for each.

    Raises:
        CaptionFault: missing, empty, not text, not UTF-8, or too long.
    """
    if value is None:
        raise CaptionFault("no caption")
    try:
        text = value.decode("utf-8-sig") if isinstance(value, (bytes, bytearray)) else value
        if not isinstance(text, str):
            raise CaptionFault("a caption that is not text")
        text.encode("utf-8")  # Lone surrogates stand for bytes that could not be read.
    except UnicodeError:
        raise CaptionFault("a caption that is not UTF-8") from None
    words = text.removeprefix("\ufeff").replace("\0", " ").split()
    if not words:
        raise CaptionFault("an empty caption")
    if len(words) > max_words or len(text) > LONGEST_WORD * max_words:  # The latter for text without spaces.
        raise CaptionFault("a caption that is too long")
    if len(max(words, key=len)) > UNSPLIT and any(len(run) > UNSPLIT for run in _RUNS.findall(text)):
        raise CaptionFault("a caption with a word that is too long")
    return " ".join(words)


def usable(values: Iterable[tuple[str, Any]], place: str, max_words: int) -> tuple[list[tuple[str, str]], list[Fault]]:
    """The usable captions of a pair, and the faults of the others.

    Args:
        values: (source, what the data hold): a caption, several in a list, or None.
        place: what faults call the pair.
        max_words: a longer caption is a fault.

    Returns:
        (source, caption) in order, each once, and faults: one for each caption that is lost, or for having none.
    """
    found: dict[tuple[str, str], None] = {}
    faults: dict[str, Fault] = {}
    for source, value in values:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is None:
                continue
            try:
                found[source, clean(one, max_words)] = None
            except CaptionFault as error:
                faults[str(error)] = Fault(place, str(error))
    if not found and not faults:
        return [], [Fault(place, "no caption")]
    return list(found), list(faults.values())
