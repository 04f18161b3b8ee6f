"""The tools that kill, soak and compare: what they are built from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.compare import differing, digests
from benchmarks.faults_suite import numbers
from benchmarks.resume import Result
from benchmarks.soak import look, sixths
from benchmarks.workspace import table, write_block


def test_differences_are_found():
    a = {"x": [torch.zeros(2), (1, 2.0)], "y": {"z": float("nan"), "n": torch.tensor([float("nan"), 1])}}
    assert differing(a, {"x": [torch.zeros(2), (1, 2.0)], "y": dict(a["y"])}) == []
    other = {"x": [torch.tensor([0, 1e-30]), (1, 3.0)], "y": {"z": 0.0, "n": torch.tensor([float("nan"), 2])}}
    assert differing(a, other) == [".x[0]", ".x[1][1]: 2.0 3.0", ".y.z: nan 0.0", ".y.n"]
    assert differing({"a": 1, "b": 2}, {"a": 1}) == [": ['a', 'b'] ['a']"]
    assert differing([1], [1, 2]) == [": 1 2"]
    assert differing(torch.zeros(2), torch.zeros(2, dtype=torch.float64)) == [""]
    assert differing(1, 1.0) == [": int float"]


def test_files_are_told_apart(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(b"1")
    (tmp_path / "b.txt").write_bytes(b"1")
    assert list(digests(tmp_path, "*.png")) == ["deep/a.png"]
    assert len(set(digests(tmp_path).values())) == 1


def test_what_tells_of_the_run_is_no_number():
    content = {"rows": [{"n": 1, "seconds": 2}], "seconds": {"clip": 3}, "commit": "x"}
    assert numbers(content) == {"rows": [{"n": 1}]}


def test_a_table_goes_into_its_place(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    write_block(document, "x", table(["a", "b"], [["1|2", "3\n4"]]))
    assert document.read_text() == (
        "before\n<!-- x -->\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 4 |\n<!-- /x -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no block <!-- y -->"):
        write_block(document, "y", "")


def test_kills_are_counted():
    row = Result("clip", 200, [-1, 17, 3], []).row()
    assert row == ["clip", "200", "3 (1 before training began)", "3, 17", "identical"]
    assert Result("clip", 200, [], [".a", ".b"]).row()[-1] == "DIFFERS: .a, .b"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_looked_at(tmp_path):
    before = look(os.getpid())
    files = [(tmp_path / str(k)).open("w") for k in range(5)]
    after = look(os.getpid())
    assert after["files"] == before["files"] + 5 and after["memory"] > 10
    for file in files:
        file.close()


def test_growth_is_measured_between_the_second_and_the_last_sixth():
    steps = [float(k) for k in range(601)]
    early, late = sixths({"step": steps, "memory": [100 + step for step in steps]}, "memory")
    assert (early, late) == (100 + 149.5, 100 + 550)
    assert sixths({"step": steps, "memory": [7.0] * 601}, "memory") == (7, 7)


def test_the_documents_blocks_are_there():
    text = Path("docs/reliability.md").read_text()
    for name in ("resume", "faults", "soak"):
        assert f"<!-- {name} -->" in text and f"<!-- /{name} -->" in text
