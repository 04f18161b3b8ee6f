"""The measured captions of a data set, source by source, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.captions.compare import ATTRIBUTES, Outcomes, lengths
from eval.tables.tabular import DASH, Cell, Table, number


@dataclass(frozen=True)
class Measured:
    """The captions of one source.

    Attributes:
        source: such as "alt_text".
        captions: how many there are.
        outcomes: counts over all captions; None if no truth is known.
        faultless: share of the captions in which nothing is wrong, left out or invented; None as above.
        unrelated: words a caption, in the mean, that say nothing of a picture; None as above.
        length: see `eval.captions.compare.lengths`.
    """

    source: str
    captions: int
    outcomes: Outcomes | None
    faultless: float | None
    unrelated: float | None
    length: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values, for report.json."""
        return asdict(self)


def measured(
    source: str,
    captions: Sequence[str],
    outcomes: Sequence[Outcomes] | None = None,
    unrelated: Sequence[Sequence[str]] | None = None,
) -> Measured:
    """Puts together what was found of each of a source's captions."""
    from eval.captions.compare import is_faultless, total

    if outcomes is None:
        return Measured(source, len(captions), None, None, None, lengths(captions))
    words = sum(map(len, unrelated or ())) / len(captions)
    share = sum(map(is_faultless, outcomes)) / len(captions)
    return Measured(source, len(captions), total(outcomes), share, words, lengths(captions))


def outcomes_table(found: Sequence[Measured]) -> Table:
    """By source and attribute: how often it is right, wrong and left out where it is true, and how often invented."""
    body = []
    for source in found:
        for name in ATTRIBUTES if source.outcomes is not None else ():
            counts = (source.outcomes or {})[name]
            true = counts["right"] + counts["wrong"] + counts["left_out"]
            shares = [_share(counts[key], true) for key in ("right", "wrong", "left_out")]
            body.append([Cell(source.source), Cell(name), *shares, _share(counts["invented"], source.captions)])
    notes = [
        "Right, wrong, left out: shares of what is true of the pictures. Invented: for each caption, how often it is"
        " said of an object or a relation that the picture does not have.",
    ]
    return Table(
        "Captions against the truth", ["captions", "attribute", "right", "wrong", "left out", "invented"], body, notes
    )


def lengths_table(found: Sequence[Measured]) -> Table:
    """By source: captions, words a caption, different captions, faultless captions, unrelated words."""
    body = [
        [
            Cell(one.source),
            Cell(f"{one.captions:,}"),
            Cell(f"{one.length['mean']:.1f} ± {one.length['deviation']:.1f}"),
            Cell(f"{one.length['shortest']:.0f} to {one.length['longest']:.0f}"),
            Cell(f"{one.length['different']:,.0f}"),
            Cell(DASH if one.faultless is None else f"{one.faultless:.3f}"),
            Cell(DASH if one.unrelated is None else f"{one.unrelated:.2f}"),
        ]
        for one in found
    ]
    columns = ["captions", "number", "words", "shortest to longest", "different", "faultless", "unrelated words"]
    notes = ["Words: mean and standard deviation. Faultless: share of captions that say all that is true, and no more."]
    return Table("Lengths of captions", columns, body, notes)


def faults(source: Mapping[str, Any]) -> dict[str, Any]:
    """What is wrong and left out in the captions of a source, as shares of what is true of the pictures.

    Args:
        source: of `Measured.as_json`.

    Returns:
        {"source", "faultless": {"value"}, "wrong ATTRIBUTE": {"value"}, "left out ATTRIBUTE": {"value"}, ...}; None
        where nothing is known.
    """
    found: dict[str, Any] = {"source": source["source"], "faultless": _value(source["faultless"], 1)}
    for name in ATTRIBUTES:
        counts = (source["outcomes"] or {}).get(name, dict.fromkeys(("right", "wrong", "left_out"), 0))
        true = counts["right"] + counts["wrong"] + counts["left_out"]
        found |= {f"wrong {name}": _value(counts["wrong"], true), f"left out {name}": _value(counts["left_out"], true)}
    return found


def _value(part: float | None, whole: int) -> dict[str, float] | None:
    return None if part is None or whole == 0 else {"value": part / whole}


def faults_table(rows: Sequence[Mapping[str, Any]], over: str) -> Table:
    """A table of the results of `faults`.

    Args:
        rows: of `faults`, or their means over replicas.
        over: what the intervals are over, in words.
    """
    names = ["faultless", *(f"wrong {name}" for name in ATTRIBUTES)]
    body = [[Cell(row["source"]), *(number(row.get(name), 3) for name in names)] for row in rows]
    notes = [
        "Faultless: share of the captions that say all that is true, and no more. Wrong: share of what is true of the"
        f" pictures. In brackets: 95 % intervals over {over}; none for one seed."
    ]
    return Table("Captions", ["captions", *names], body, notes)


def _share(part: int, whole: int) -> Cell:
    return Cell(DASH if whole == 0 else f"{part / whole:.3f}")


def tables(found: Sequence[Measured]) -> Mapping[str, Table]:
    """File name -> table."""
    made = {"lengths": lengths_table(found)}
    return made | ({"outcomes": outcomes_table(found)} if any(one.outcomes for one in found) else {})
