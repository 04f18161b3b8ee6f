"""The tables of accuracy by kind of caption, by the number of objects that it names, and of words in pictures."""

from __future__ import annotations

from collections.abc import Sequence

from eval.metrics.kinds import HELD_OUT, KINDS
from eval.metrics.limits.by_count import COUNTED
from eval.tables.main import Cell, Row, Table, in_order, label, number
from eval.tables.tabular import DASH


def kind_table(rows: Sequence[Row]) -> Table:
    """Conditions against kinds of captions, each share with its interval and its number of samples."""
    known = in_order([row for row in rows if row.get("accuracy_by_kind")])
    there = [kind for kind in KINDS if any(row["accuracy_by_kind"].get(kind) for row in known)]
    body = []
    for row in known:
        cells = [Cell(label(row["condition"]))]
        for kind in there:
            found = row["accuracy_by_kind"].get(kind)
            cells += [number(found, 2), Cell(str(found["n"]) if found else "0")]
        body.append(cells)
    columns = ["condition", *(head for kind in there for head in (f"{KINDS[kind]} ↑", f"n, {KINDS[kind]}"))]
    said = [
        "Share of samples with everything right that the caption mentions, by the classifier. One object, two objects:"
        " as many as the caption names. Intervals as in the main table; n: samples of that kind.",
    ]
    if not known:
        said = ["nothing to judge: no ground truth, or nothing has been evaluated with --classifier"]
    elif HELD_OUT in there or "seen" in there:
        said.append(
            "Held out: the caption names a (colour, shape) that no training or validation picture shows. The"
            " classifier was trained on all combinations if its YAML says so; its own row is that of real images."
        )
    else:
        said.append(
            "Seen and held out are left out: these manifests do not say which captions name held-out combinations;"
            " write them again with `unclip data export` and `unclip sample`."
        )
    return Table("Accuracy by kind of caption", columns, body, said)


def count_table(rows: Sequence[Row]) -> Table:
    """Accuracy by condition and number of named objects (figure 17 as a number)."""
    heads = {"object": "each object ↑", "number": "number ↑", "all": "all ↑"}
    body = []
    for row in in_order([row for row in rows if row.get("accuracy_by_count")]):
        for count, found in sorted(row["accuracy_by_count"].items(), key=lambda item: int(item[0])):
            cells = [number(found[name], 2) for name in COUNTED]
            body.append([Cell(label(row["condition"])), Cell(count), Cell(str(found["n"])), *cells])
    said = [
        "Each object: share of the named objects that are there with all that is said of them, each seen one counting"
        " once. Number: pictures with as many objects as the caption names. All: both, for all objects. By the"
        " classifier, whose own row is that of real images. Intervals of shares as in the main table.",
    ]
    return Table("Accuracy by number of objects", ["condition", "objects", "n", *heads.values()], body, said)


def lettering_table(rows: Sequence[Row]) -> Table:
    """Right letters and right words, by condition and kind of word (figure 16 as a number)."""
    body = []
    for row in in_order([row for row in rows if row.get("lettering")]):
        for name, found in row["lettering"].items():
            numbers = [Cell(str(found[key])) if key in found else Cell(DASH) for key in ("n", "words")]
            cells = [Cell(label(row["condition"])), Cell(name), *numbers]
            body.append([*cells, number(found["letters"], 2), number(found["word"], 2)])
    said = [
        "Letters: 1 - edits / length, at least 0, between the word of the caption and what a reader reads; word: all of"
        " them. The reader was trained on true signs; its own row is that of real images. Words: how many different"
        " ones; intervals of shares are over them. By length; by how often training showed signs with the word; by"
        " whether CLIP's byte pair encoding has one token for it or parts it, among words of those lengths of which"
        " there are both.",
    ]
    return Table("Words in pictures", ["condition", "kind", "n", "words", "letters ↑", "word ↑"], body, said)
