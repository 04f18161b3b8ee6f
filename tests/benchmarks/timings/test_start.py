"""The benchmark of starts runs the words that it names, and reads the seconds of their process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.timings.start import ROOT, Start, cpu_seconds, line, main, starts
from experiments.cli import COMMANDS


def test_a_process_seconds_are_those_that_it_computes_for(tmp_path):
    code = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    began = time.process_time()
    busy, idle = (cpu_seconds(Start("a", ("-c", text)), tmp_path) for text in (code, "import time; time.sleep(0.5)"))
    assert busy >= 0.5 > idle > 0
    assert time.process_time() - began < 0.5  # Ours are not counted.


def test_a_start_that_fails_is_named(tmp_path):
    with pytest.raises(ChildProcessError, match=r"a in .* ended with 3: why"):
        cpu_seconds(Start("a", ("-c", "print('why'); raise SystemExit(3)")), tmp_path)


def test_every_command_is_timed_and_pictures_of_a_run():
    names = [start.name for start in starts([], Path("runs/a"), Path("out"))]
    assert names[: len(COMMANDS)] == [f"{name} --help" for name in COMMANDS]
    always = ["import torch", "import modules.pipeline", "sample, shipped:shapes"]
    assert names[len(COMMANDS) :] == [*always, "sample, 4 pictures"]
    names = [start.name for start in starts(["sample"], None, Path("out"))]
    assert names == ["sample --help", *always]
    names = [start.name for start in starts(["sample"], None, Path("out"), shipped=False)]
    assert names == ["sample --help", *always[:2]]


def test_lines_side_by_side(capsys, monkeypatch):
    found = iter([0.2, 8.0, 0.1, 9.0])
    asked = []
    monkeypatch.setattr("benchmarks.timings.start.IMPORTS", {})
    monkeypatch.setattr("benchmarks.timings.start.cpu_seconds", lambda start, at: asked.append(at) or next(found))
    main(["--only", "sample", "--before", "/other", "--repeats", "2"])
    assert asked == [ROOT, Path("/other")] * 2  # The other checkout has no shipped weights.
    assert capsys.readouterr().out.splitlines()[1].split() == ["sample", "--help", "0.10", "s", "8.00", "s", "80.0"]
    assert line("a", 1.0, None).split() == ["a", "1.00", "s"]
