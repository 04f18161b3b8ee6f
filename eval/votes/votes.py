"""Votes on a ballot, counted as in the paper's Table 1: how often people prefer a model's picture to the baseline's."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.metrics.bootstrap import Interval
from eval.tables.published import QUESTIONS
from eval.untrusted import MAX_TABLE, read_bytes
from eval.votes.ballot import BALLOT, FOLDER, Ballot

LEFT, RIGHT, UNSURE = "left", "right", "unsure"
FIELDS = ("ballot", "item", "choice", "voter")
Vote = Mapping[str, Any]

NORMAL = 1.959964
"""Half the width of a 95 % normal interval, in standard deviations."""


def win_interval(wins: float, n: int) -> Interval:
    """The share of n comparisons that are won, with Wilson's 95 % interval.

    Differs from the paper: it has the normal approximation at n = 1,000 (appendix B), which agrees there to 0.1 points
    and would have no width where few votes are unanimous.

    Args:
        wins: "not sure" counts as half a win.
        n: comparisons, 1 or more.
    """
    p, z2 = wins / n, NORMAL**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL / (1 + z2 / n) * (p * (1 - p) / n + z2 / (4 * n**2)) ** 0.5
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def count(ballot: Ballot, votes: Sequence[Vote]) -> dict[str, dict[str, dict[str, float]]]:
    """Condition -> question -> {"value", "low", "high", "n", "unsure"}; of a voter's votes on an item the last counts.

    Args:
        ballot: what was asked.
        votes: as `read_votes` returns them.
    """
    last = {(vote["voter"], vote["item"]): vote["choice"] for vote in votes}
    tally: dict[tuple[str, str], list[float]] = {}
    for (_, number), choice in last.items():
        item = ballot.items[number]
        won = 0.5 if choice == UNSURE else float((choice == LEFT) == item.left)
        tally.setdefault((item.condition, item.question), []).append(won)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (condition, question), scores in sorted(tally.items()):
        interval = win_interval(sum(scores), len(scores))
        numbers = {**interval._asdict(), "n": len(scores), "unsure": scores.count(0.5)}
        found.setdefault(condition, {})[question] = numbers
    return {condition: {q: found[condition][q] for q in QUESTIONS if q in found[condition]} for condition in found}


def read_votes(path: Path, ballot: Ballot) -> list[dict[str, Any]]:
    """The votes of a .jsonl or .csv file with ballot, item, choice and voter.

    Raises:
        InputError: unreadable, a value is missing or wrong, or votes on another ballot; with the line.
    """
    try:
        text = read_bytes(path, MAX_TABLE).decode("utf-8-sig")
        rows: list[tuple[int, Any]]
        if path.suffix == ".csv":
            rows = list(enumerate(csv.DictReader(text.splitlines(), skipinitialspace=True), 2))
        else:
            rows = [(number, _parsed(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the votes {path} ({error})") from error
    return [_checked(f"{path}:{number}", row, ballot) for number, row in rows]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _checked(place: str, row: Any, ballot: Ballot) -> dict[str, Any]:
    if not isinstance(row, dict) or any(row.get(name) in (None, "") for name in FIELDS):
        raise InputError(f"{place} is no vote: it needs {', '.join(FIELDS)}")
    if row["ballot"] != ballot.digest:
        raise InputError(f"{place} is a vote on another ballot ({row['ballot']}, not {ballot.digest}); move it away")
    number = int(row["item"]) if re.fullmatch(r"[0-9]{1,9}", str(row["item"])) else -1
    if not 0 <= number < len(ballot.items):
        raise InputError(f"{place} is on item {row['item']!r}; the ballot has 0 to {len(ballot.items) - 1}")
    if row["choice"] not in (LEFT, RIGHT, UNSURE):
        raise InputError(f"{place} says {row['choice']!r}; a choice is {LEFT}, {RIGHT} or {UNSURE}")
    return {"item": number, "choice": row["choice"], "voter": str(row["voter"])}


def vote_files(run: Path) -> list[Path]:
    """The files of votes in RUN/votes."""
    return sorted(p for p in (run / FOLDER).glob("*") if p.suffix in (".jsonl", ".csv") and not p.name.startswith("."))


def counted(run: Path) -> dict[str, dict[str, dict[str, float]]] | None:
    """The result of `count` for all votes in RUN/votes; None if nobody has voted.

    Raises:
        InputError: a file is damaged, or there are votes and no ballot.
    """
    files = vote_files(run)
    if not files:
        return None
    ballot = Ballot.load(run / FOLDER / BALLOT)
    return count(ballot, [vote for path in files for vote in read_votes(path, ballot)])
