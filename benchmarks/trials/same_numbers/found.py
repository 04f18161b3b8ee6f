"""What a comparison of two results found: how much was compared, what differs, and by how much at most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SHOWN = 3
"""Differences that a line names; the JSON holds all of them."""


@dataclass
class Found:
    """The outcome of one comparison.

    Attributes:
        kind: what was compared, such as "tensors".
        compared: how many of them.
        differing: the names of those that differ, each with the reason.
        largest: the largest absolute difference of two numbers; 0 if the difference is of another kind.
        at: where the largest difference is.
        notes: what is not the same and is no difference of numbers, such as a renamed tensor.
    """

    kind: str
    compared: int = 0
    differing: list[str] = field(default_factory=list)
    largest: float = 0.0
    at: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether all numbers are the same, and at least one was compared."""
        return not self.differing and self.compared > 0

    def differs(self, name: str, reason: str, size: float = 0.0) -> None:
        """Note a difference; `size` is its largest absolute value, NaN counts as infinite."""
        self.differing.append(f"{name} ({reason})")
        size = math.inf if math.isnan(size) else size
        if size > self.largest or not self.at:
            self.largest, self.at = size, name

    def add(self, other: Found, prefix: str = "") -> None:
        """Add another comparison; the names in it get a prefix."""
        self.compared += other.compared
        if other.differing and (other.largest > self.largest or not self.at):
            self.largest, self.at = other.largest, f"{prefix}{other.at}"
        self.differing += [f"{prefix}{name}" for name in other.differing]
        self.notes += [f"{prefix}{note}" for note in other.notes]

    def line(self) -> str:
        """The outcome in one line."""
        noted = f"; {len(self.notes)} notes, the first: {self.notes[0]}" if self.notes else ""
        if self.same:
            return f"same bits ({self.compared} {self.kind}){noted}"
        if not self.differing:
            return f"NOTHING COMPARED: no {self.kind}{noted}"
        names = "; ".join(self.differing[:SHOWN]) + ("; ..." if len(self.differing) > SHOWN else "")
        head = f"{len(self.differing)} of {self.compared} {self.kind} DIFFER"
        return f"{head}, by {self.largest:.3g} at most (at {self.at}): {names}{noted}"
