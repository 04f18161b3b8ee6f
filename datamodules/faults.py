"""Pairs that cannot be used: they are left out and counted, or the first of them stops the command."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from modules.errors import InputError
from modules.untrusted.reading import MAX_TABLE, printable, read_bytes
from modules.untrusted.writing import open_to_append

LOG_FILE = "skipped.jsonl"
SHOWN = 10
"""Faults of a split that are told one by one; the summary counts all."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the data.

    Attributes:
        place: the file, the member of a shard, or the row.
        kind: a few words that are the same for all such faults.
        detail: what else is known, or "".
        pairs: how many pairs are lost with it, as near as that is known.
        exact: False where `pairs` is only the least that it can be.
    """

    place: str
    kind: str
    detail: str = ""
    pairs: int = 1
    exact: bool = True

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.kind}" + (f" ({self.detail})" if self.detail else ""))


@dataclass(frozen=True)
class FaultPolicy:
    """What happens when a pair cannot be used.

    Attributes:
        on_error: "skip" leaves it out, says so and counts it; "refuse" stops with its name.
        max_skipped: if more pairs are skipped, the command stops. A value of 1 or more is a number of pairs of a split,
            and 0 allows none. A value below 1 is a share (which always allows one pair): of the source's pairs for
            faults that are found when pairs are listed, of the split's pairs for faults that are found when they are
            read. Every process lists all pairs, and counts those that it reads.
        follow_links: read files outside of a folder of pictures to which links in it lead. Only for your own folders:
            a stranger's link may name any file of yours.

    Raises:
        InputError: a negative limit.
    """

    on_error: Literal["skip", "refuse"] = "skip"
    max_skipped: float = 0.01
    follow_links: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped < math.inf:
            raise InputError(f"faults.max_skipped must be 0 or more, got {self.max_skipped}")

    def limit(self, pairs: int) -> int:
        """How many of this number of pairs may be skipped."""
        return math.ceil(self.max_skipped * pairs) if self.max_skipped < 1 else int(self.max_skipped)


class FaultLog:
    """Counts the faults of one split, each once however often it is met, and stops where the policy says so.

    Attributes:
        pairs: number of pairs that the limit is a share of.
        found: the faults, by place and kind.
        file: a .jsonl file that each fault is added to, once however often the same data are opened; or None.
    """

    def __init__(self, policy: FaultPolicy, split: str, quiet: bool = False) -> None:
        self.policy, self.split, self.quiet = policy, split, quiet
        self.pairs = 0
        self.file: Path | None = None
        self.found: dict[tuple[str, str], Fault] = {}
        self._lost = 0
        self._listed = 0
        self._written: tuple[Path, set[tuple[str, str]]] | None = None

    def __len__(self) -> int:
        """Pairs lost so far."""
        return self._lost

    def write_into(self, folder: Path, rank: int) -> None:
        """Add each fault to folder/skipped.jsonl, a second process to 1-skipped.jsonl; only the first tells of them.

        Faults that were found earlier are added too, because the data may have been listed before.
        """
        self.quiet = rank > 0
        file = folder / (f"{rank}-{LOG_FILE}" if rank else LOG_FILE) if folder.is_dir() else None
        if file != self.file:
            self.file = file
            for fault in self.found.values():
                self._write(fault)

    def read(self, pairs: int) -> None:
        """From now on faults are found while this number of pairs is read, not while pairs are listed."""
        self.pairs = pairs
        if self.policy.max_skipped < 1:  # A share of other pairs: those of the list have had theirs.
            self._listed = self._lost

    def add(self, fault: Fault) -> None:
        """Counts a fault.

        Raises:
            InputError: the policy is to refuse, or there are now too many.
        """
        if (fault.place, fault.kind) in self.found:
            return
        self.found[fault.place, fault.kind] = fault
        self._lost += fault.pairs
        if self.policy.on_error == "refuse":
            raise InputError(f"{fault}; correct it, or skip such pairs with faults.on_error: skip")
        if not self.quiet and len(self.found) <= SHOWN:
            more = "; further ones are counted" if len(self.found) == SHOWN else ""
            _logger.warning("skipped from %s: %s%s", self.split, fault, more)
        self._write(fault)
        limit = self.policy.limit(self.pairs)
        if self._lost - self._listed > limit:
            beside = f" beside the {self._listed:,} that were left out of the list" if self._listed else ""
            raise InputError(
                f"{self.summary()}: more than the {limit} that faults.max_skipped ({self.policy.max_skipped:g}) "
                f"allows{beside}; the last: {fault}"
            )

    def summary(self) -> str:
        """'3 skipped from train (2 for no caption, 1 for a damaged picture)', or 'nothing skipped from train'."""
        if not self.found:
            return f"nothing skipped from {self.split}"
        kinds: Counter[str] = Counter()
        for fault in self.found.values():
            kinds[fault.kind] += fault.pairs
        least = {fault.kind for fault in self.found.values() if not fault.exact}
        listed = ", ".join(f"{'at least ' * (kind in least)}{n:,} for {kind}" for kind, n in kinds.most_common())
        return f"{'at least ' * bool(least)}{self._lost:,} skipped from {self.split} ({listed})"

    def tell(self) -> None:
        """Says the summary."""
        place = "" if self.file is None else f"; {self.file} names them"
        _logger.warning("%s%s", self.summary(), place)

    def _write(self, fault: Fault) -> None:
        if self.file is None:
            return
        line = {"split": self.split, **asdict(fault)}
        if fault.exact:
            del line["exact"]
        try:
            if self._written is None or self._written[0] != self.file:
                self._written = self.file, _places(self.file, self.split)
            if (fault.place, fault.kind) in self._written[1]:  # By the run that this one goes on with.
                return
            with open_to_append(self.file) as file:
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        except (OSError, InputError) as error:  # The count goes on; a full disk is the checkpoint's to tell.
            _logger.warning("%s can't be written: %s", self.file, getattr(error, "strerror", None) or error)
            self.file = None


def _places(file: Path, split: str) -> set[tuple[str, str]]:
    """(place, kind) of a split's faults that a file holds."""
    found = set()
    if file.exists():
        for line in read_bytes(file, MAX_TABLE).decode("utf-8", "replace").split("\n"):
            try:
                row = json.loads(line)
                if row["split"] == split:
                    found.add((row["place"], row["kind"]))
            except (ValueError, KeyError, TypeError, RecursionError):  # Half a line, of a process that was killed.
                continue
    return found
