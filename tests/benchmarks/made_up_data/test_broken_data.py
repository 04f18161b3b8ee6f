"""The fault table: every kind of broken file is made, and the page says what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.made_up_data.broken_data import BROKEN, CASES, HEAD, KINDS, PAIRS, Explosive, line, outcome

BESIDE = {
    "pickle for a caption": 1,
    "duplicate key in a shard": 2,
    "path with .. in a shard": 2,
    "annotation of no image": 1,
    "image number twice": 1,
    "picture listed twice": 1,
}
"""What these cases put beside the pairs, and is left out again: members, annotations, a second caption."""

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


@pytest.mark.parametrize(
    ("case", "name"), [(c, f) for c in CASES for f in c.formats], ids=lambda x: getattr(x, "name", x)
)
def test_a_fault_is_skipped_and_counted_or_refused_by_name_as_configured(case, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = outcome(case, KINDS[name], tmp_path / "case")
    assert found.kinds == (case.kind or "")
    assert bool(found.stopped) == bool(case.refused)
    if case.refused:
        for said, policy in ((found.stopped, "skip"), (found.refusal, "refuse")):
            assert case.refused in said
            assert f"{tmp_path}/case/{policy}/train" in said
            assert "\n" not in said
    elif case.kind is None:
        assert found.seen == set(range(PAIRS))
        assert found.refusal == ""
    else:
        assert found.lost >= 1
        assert case.kind.split("; ")[0] in found.refusal
        assert f"{tmp_path}/case/refuse/" in found.refusal  # A file, a member or a line in that folder.
        assert "\n" not in found.refusal
    if not found.stopped:
        lost = PAIRS - len(found.seen)  # No silent loss, and none that is counted twice.
        assert found.lost == lost + BESIDE.get(case.name, 0), (found.lost, lost)
    assert not Path(Explosive.path).exists()
    assert BROKEN < PAIRS


def test_the_page_shows_what_the_program_prints():
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    first = lines.index(HEAD[0])
    shown = lines[first : lines.index("", first)]
    assert shown == [*HEAD, *(line(c, c.kind or "", bool(c.refused), bool(c.kind or c.refused)) for c in CASES)]
