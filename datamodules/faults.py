"""What to do with a pair that cannot be used: leave it out and count it, or stop; never silently, never hours in."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from modules.errors import InputError

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
    """

    place: str
    kind: str
    detail: str = ""
    pairs: int = 1

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class FaultPolicy:
    """What happens when a pair cannot be used.

    Attributes:
        on_error: "skip" leaves it out, says so and counts it; "refuse" stops with its name.
        max_skipped: of a split; when more are skipped, everything stops. Below 1 a share of the split's pairs (one pair
            is always within it), from 1 on a number, 0 for none. Every process counts what it meets.

    Raises:
        InputError: a negative limit.
    """

    on_error: Literal["skip", "refuse"] = "skip"
    max_skipped: float = 0.01

    def __post_init__(self) -> None:
        if not self.max_skipped >= 0:
            raise InputError(f"faults.max_skipped must be 0 or more, got {self.max_skipped}")

    def limit(self, pairs: int) -> int:
        """How many of so many pairs may be skipped."""
        return math.ceil(self.max_skipped * pairs) if self.max_skipped < 1 else int(self.max_skipped)


class FaultLog:
    """Counts the faults of one split, each once however often it is met, and stops where the policy says so.

    Attributes:
        pairs: number of pairs that the limit is a share of.
        found: the faults, by place and kind.
        file: a .jsonl file that each fault is added to, or None.
    """

    def __init__(self, policy: FaultPolicy, split: str, quiet: bool = False) -> None:
        self.policy, self.split, self.quiet = policy, split, quiet
        self.pairs = 0
        self.file: Path | None = None
        self.found: dict[tuple[str, str], Fault] = {}

    def __len__(self) -> int:
        """Pairs lost so far."""
        return sum(fault.pairs for fault in self.found.values())

    def add(self, fault: Fault) -> None:
        """Counts a fault.

        Raises:
            InputError: the policy is to refuse, or there are now too many.
        """
        if (fault.place, fault.kind) in self.found:
            return
        self.found[fault.place, fault.kind] = fault
        if self.policy.on_error == "refuse":
            raise InputError(f"{fault}; correct it, or skip such pairs with faults.on_error: skip")
        if not self.quiet and len(self.found) <= SHOWN:
            more = "; further ones are counted" if len(self.found) == SHOWN else ""
            _logger.warning("skipped from %s: %s%s", self.split, fault, more)
        self._write(fault)
        limit = self.policy.limit(self.pairs)
        if len(self) > limit:
            raise InputError(
                f"{self.summary()}: more than the {limit} that faults.max_skipped ({self.policy.max_skipped:g}) "
                f"allows; the last: {fault}"
            )

    def summary(self) -> str:
        """'3 skipped from train (2 for no caption, 1 for a damaged picture)', or 'nothing skipped from train'."""
        if not self.found:
            return f"nothing skipped from {self.split}"
        kinds: Counter[str] = Counter()
        for fault in self.found.values():
            kinds[fault.kind] += fault.pairs
        listed = ", ".join(f"{count:,} for {kind}" for kind, count in kinds.most_common())
        return f"{len(self):,} skipped from {self.split} ({listed})"

    def tell(self) -> None:
        """Says the summary."""
        place = "" if self.file is None else f"; {self.file} names them"
        _logger.warning("%s%s", self.summary(), place)

    def _write(self, fault: Fault) -> None:
        if self.file is None:
            return
        line = json.dumps({"split": self.split, **asdict(fault)}, ensure_ascii=False)
        try:
            with self.file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:  # The count goes on; a full disk is the checkpoint's to tell.
            _logger.warning("%s can't be written: %s", self.file, error.strerror)
            self.file = None
