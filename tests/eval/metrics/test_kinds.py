"""Accuracy by kind of caption: values by hand, the table, and manifests that do not say what was held out."""

from __future__ import annotations

import numpy as np
import pytest

from eval.judges.features import AttributeExtractor
from eval.judges.judges import Judges, look
from eval.measure import held_out_note, measure, read_reference
from eval.metrics.bootstrap import Resampler, exact
from eval.metrics.kinds import KINDS, accuracy_by_kind, kinds_of
from eval.pages.collected import paper_tables
from eval.tables.kinds import kind_table
from eval.tables.main import Cell


def line(objects: int, held_out: bool | None = None) -> dict:
    known = {"mentioned": {"objects": [{}] * objects}}
    return known if held_out is None else {**known, "held_out": held_out}


# caption, objects, held out, everything right
SAMPLES = [
    (0, 1, False, 1), (0, 1, False, 0),
    (1, 2, False, 1), (1, 2, False, 0), (1, 2, False, 0),
    (2, 2, True, 0), (2, 2, True, 0), (2, 2, True, 1),
    (3, 1, True, 0),
    (4, 1, False, np.nan),
]  # fmt: skip
RIGHT = np.array([right for *_, right in SAMPLES], float)
LINES = [line(objects, held_out) for _, objects, held_out, _ in SAMPLES]
DRAWS = Resampler(np.array([caption for caption, *_ in SAMPLES]), 200, 0)


def test_kinds_of_a_line():
    assert kinds_of(line(1)) == ["one"] and kinds_of(line(2)) == ["two"]
    assert kinds_of(line(1, True)) == ["one", "held_out"] and kinds_of(line(2, False)) == ["two", "seen"]
    assert kinds_of({"held_out": True}) == kinds_of({"mentioned": None, "held_out": False}) == []


def test_values():
    found = accuracy_by_kind(LINES, RIGHT, DRAWS)
    assert list(found) == list(KINDS) == ["one", "two", "seen", "held_out"]
    values = {kind: (number["value"], number["n"]) for kind, number in found.items()}
    assert values == {
        "one": (pytest.approx(1 / 3), 3),
        "two": (pytest.approx(2 / 6), 6),
        "seen": (pytest.approx(2 / 5), 5),
        "held_out": (pytest.approx(1 / 4), 4),
    }
    # Held out: captions 2 (1 of 3) and 3 (0 of 1), a variance of 1/64; Student's quantile of one degree of freedom.
    low, high = exact(1 / 4, 3 / 16 * 64 * (1.959964 / 12.706205) ** 2)[1:]
    assert (found["held_out"]["low"], found["held_out"]["high"]) == pytest.approx((low, high), abs=1e-6)
    assert all(number["low"] <= number["value"] <= number["high"] for number in found.values())


def test_without_the_field_or_the_kind():
    found = accuracy_by_kind([line(objects) for _, objects, *_ in SAMPLES], RIGHT, DRAWS)
    assert found["seen"] is None and found["held_out"] is None and found["two"]["n"] == 6
    only = accuracy_by_kind([line(1, False)] * 10, RIGHT, DRAWS)
    assert only["two"] is None and only["held_out"] is None and only["seen"]["n"] == 9


def test_table(row):
    found = accuracy_by_kind(LINES, RIGHT, DRAWS)
    rows = [row("real", accuracy_by_kind={**found, "two": None}), row("glide", accuracy_by_kind=found), row("ar_prior")]
    table = kind_table(rows)
    assert table.columns == [
        "condition", "one object ↑", "n, one object", "two objects ↑", "n, two objects",
        "seen ↑", "n, seen", "held out ↑", "n, held out",
    ]  # fmt: skip
    assert [line[0].text for line in table.rows] == ["GLIDE", "real images (floor)"]
    assert table.rows[0][3].text == "0.33" and table.rows[0][4] == Cell("6")
    low, high = (found["held_out"][key] for key in ("low", "high"))
    assert table.rows[0][7:] == [Cell("0.25", f"[{low:.2f}, {high:.2f}]"), Cell("4")]
    assert table.rows[1][3:5] == [Cell("–"), Cell("0")]
    assert any("no training or validation picture shows" in note for note in table.notes)


def test_old_manifests_and_old_metrics(row, tmp_path):
    old = accuracy_by_kind([line(objects) for _, objects, *_ in SAMPLES], RIGHT, DRAWS)
    table = kind_table([row("glide", accuracy_by_kind=old)])
    assert table.columns == ["condition", "one object ↑", "n, one object", "two objects ↑", "n, two objects"]
    assert any("Seen and held out are left out: these manifests do not say" in note for note in table.notes)
    assert "accuracy_by_kind" not in paper_tables(tmp_path, [row("glide"), row("real", accuracy_by_kind=None)])
    assert paper_tables(tmp_path, [row("glide", accuracy_by_kind=old)])["accuracy_by_kind"].rows == table.rows
    assert kind_table([row("glide")]).notes[0].startswith("nothing to judge")


def test_measured(make_folder, classifier):
    judges = Judges(AttributeExtractor(classifier))
    folder, real = make_folder("a", condition="glide"), make_folder("real", captions=12, seed=1)
    for record in folder.records:
        record["held_out"] = record["caption_index"] < 3
    row = measure(folder, look(folder, judges), judges, read_reference(real, judges), draws=20, seed=0)
    found = row["accuracy_by_kind"]
    assert {kind: number and number["n"] for kind, number in found.items()} == {
        "one": 16, "two": None, "seen": 10, "held_out": 6,
    }  # fmt: skip
    everything = row["accuracy"]["all"]
    assert found["one"] == everything
    assert (10 * found["seen"]["value"] + 6 * found["held_out"]["value"]) / 16 == pytest.approx(everything["value"])
    assert row["warnings"] == []  # This reference does not say what it holds.
    for record in real.records:
        record["held_out"] = record["caption_index"] == 0
    told = measure(folder, look(folder, judges), judges, read_reference(real, judges), draws=20, seed=0)
    assert told["warnings"][0].startswith("37.5 % of the samples' captions name held-out combinations, 8.3 % of the")
    assert held_out_note(folder, folder) == []
    bare = make_folder("b", mentioned=False)
    assert measure(bare, look(bare, judges), judges, read_reference(real, judges), 10, 0)["accuracy_by_kind"] is None
