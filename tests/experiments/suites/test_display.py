"""What is shown while stages run, on a terminal and elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments.storage.folders import write_json
from experiments.suites import display as module
from experiments.suites.display import Display, Line

NOW = 1000.0


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """Three stages, at a moment that does not pass."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: NOW))
    state = {"label": "decoder", "done": 1200, "total": 6000, "rate": 7.125, "eta_s": 676.0}
    write_json(tmp_path / "decoder.json", state)
    write_json(tmp_path / "embed.json", {**state, "label": "train", "done": 5, "total": None, "eta_s": None})
    return [
        Line("decoder", 3, NOW - 170, tmp_path / "decoder.json"),
        Line("embeddings", 2, NOW - 3, tmp_path / "embed.json"),
        Line("clip", 1, NOW, tmp_path / "none.json"),
    ]


def test_a_line_says_stage_step_rate_and_time_left(lines):
    display = Display(12)
    assert display.text(lines[0], NOW) == "[3/12] decoder: 1,200 of 6,000, 7.12/s, 11:16 left; running for 2:50"
    assert display.text(lines[1], NOW) == "[2/12] embeddings: train: 5, 7.12/s; running for 0:03"
    assert display.text(lines[2], NOW) == "[1/12] clip: starting; running for 0:00"


def test_a_terminal_has_a_table_and_lines_that_stay(lines):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    with Display(12, console) as display:
        display._shown -= 1
        display.show(lines)
        display.say("[3/12] decoder: [bold]done")
    text = console.file.getvalue()
    assert "\x1b[1A" in text  # it moves up to draw over itself
    row = next(line for line in text.splitlines() if "[3/12] decoder" in line)
    assert row.split() == ["[3/12]", "decoder", "1,200", "6,000", "7.12/s", "11:16", "2:50"]
    assert "[3/12] decoder: [bold]done" in text
    assert "\\[" not in text
