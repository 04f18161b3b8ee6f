"""The fault table: every kind of broken file is made, and the page says what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.broken_data import BROKEN, CASES, PAIRS, Explosive, outcome
from benchmarks.formats import FORMATS

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.mark.parametrize(
    ("case", "name"), [(c, f) for c in CASES for f in c.formats], ids=lambda x: getattr(x, "name", x)
)
def test_a_fault_is_skipped_and_counted_or_refused_by_name_as_configured(case, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = outcome(case, FORMATS[name], tmp_path / "case")
    assert found.kinds == (case.kind or "")
    if case.kind is None:
        assert found.seen == set(range(PAIRS))
        assert found.refusal == ""
    else:
        assert found.lost >= 1
        assert case.kind.split("; ")[0] in found.refusal
        assert f"{tmp_path}/case/refuse/" in found.refusal  # A file, a member or a line in that folder.
        assert "\n" not in found.refusal
    assert len(found.seen) + found.lost >= PAIRS  # No silent loss.
    assert not Path(Explosive.path).exists()
    assert BROKEN < PAIRS


def test_the_page_lists_every_case_with_its_outcome():
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    for case in CASES:
        (line,) = [line for line in lines if line.startswith(f"| {case.name} |")]
        formats, skip, refuse = (cell.strip() for cell in line.strip("|").split("|")[1:])
        assert formats == ", ".join(case.formats)
        assert skip == ("used" if case.kind is None else f"skipped and counted: *{case.kind}*")
        assert refuse == ("used" if case.kind is None else "refused by name")
