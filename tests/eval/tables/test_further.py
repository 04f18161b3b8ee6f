"""Further metrics as a table: each number under its heading, only what was measured, protocols not mixed."""

from __future__ import annotations

import pytest

from eval.errors import InputError
from eval.further import NAMES
from eval.tables.further import COLUMNS, METRICS, further_table
from eval.tables.main import Cell


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.02}


def test_every_metric_has_its_column(row):
    values = {name: interval(k + 1 / 4) for k, name in enumerate(NAMES)}
    any_pair = {"n": 104, "bound": interval(0.5), "swapped": interval(0.25), "missing": interval(0.25)}
    full, bare = row("real", **values, binding={"any": any_pair}), row("glide")
    for given in (full, bare):
        given["protocol"] |= {"neighbours": [3, 5], "recall_interval": "of recall", "candidates": 100}
        given["protocol"] |= {"aesthetic": "ridge 12", "preference": "logistic 34"}
    table = further_table([full, bare])
    assert table.columns == ["condition", *(head for head, _ in COLUMNS.values())]
    assert [line[0].text for line in table.rows] == ["GLIDE", "real images (floor)"]
    assert table.rows[0][1:] == [Cell("–")] * len(COLUMNS)
    found = dict(zip(table.columns, table.rows[1], strict=True))
    assert found["KID ↓"] == Cell("0.250", "[0.240, 0.270]") and found["recall ↑"] == Cell("2.25", "[2.24, 2.27]")
    for k, name in enumerate(NAMES):
        assert float(found[COLUMNS[name][0]].text) == k + 1 / 4
    assert found["bound ↑"].text == "0.50" and found["swapped ↓"].text == "0.25"
    said = "\n".join(table.notes)
    for words in ("n = 512 a row", "95% bootstrap", "of recall and coverage: of recall.", "recall (k = 3), density",
                  "coverage (k = 5): attribute classifier 12ab, 64 features, against 1024 real images (56ef)",
                  "by eval_clip 34cd", "first among 100 captions", "aesthetic: ridge 12.", "n = 104"):  # fmt: skip
        assert words in said


def test_no_metric_is_forgotten():
    assert METRICS == NAMES


def test_columns_that_nobody_measured_are_left_out(row):
    table = further_table([row("glide", recall=interval(0.5), kid=None)])
    assert table.columns == ["condition", "recall ↑"]
    assert "for these samples; too narrow" in table.notes[0] and len(table.notes) == 2
    assert further_table([row("glide")]).rows == [] == further_table([]).rows


def test_protocols_are_not_mixed(row):
    rows = [row("glide", recall=interval(0.5)), row("real", recall=interval(0.5))]
    rows[1]["protocol"]["n"] = 3
    with pytest.raises(InputError, match="n = 512 and real with 3"):
        further_table(rows)
