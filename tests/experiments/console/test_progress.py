"""Progress: what is counted, what is written, and how often."""

from __future__ import annotations

import json

import pytest

from experiments.console import progress as module
from experiments.console.progress import Progress, clock, progress, progress_line, read_progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)
    return clock


def test_rate_and_time_left(time):
    bar = Progress("x", 100, done=20)
    assert (bar.rate, bar.eta) == (0, None)
    time.now += 5
    bar.update(30)
    assert bar.rate == 2.0  # what was done before a resume does not count
    assert bar.eta == 35.0


def test_rate_is_that_of_the_last_minute(time):
    bar = Progress("x", 1000)
    for _ in range(20):
        time.now += 10
        bar.advance(10)
    for _ in range(7):
        time.now += 10
        bar.advance(50)
    assert bar.rate == pytest.approx(5.0)


def test_file_is_rewritten_at_most_once_a_second_and_at_the_end(time, tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("UNCLIP_PROGRESS", str(path))
    with progress(10, "drawing") as bar:
        assert read_progress(path) == {"label": "drawing", "done": 0, "total": 10, "rate": 0.0, "eta_s": None}
        time.now += 0.5
        bar.advance(2)
        assert read_progress(path)["done"] == 0
        time.now += 0.5
        bar.advance(2)
        assert read_progress(path) == {"label": "drawing", "done": 4, "total": 10, "rate": 4.0, "eta_s": 1.5}
        bar.advance(6)
    assert json.loads(path.read_text())["done"] == 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["progress.json"]


def test_an_iterable_is_counted_as_it_is_used(time, tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("UNCLIP_PROGRESS", str(path))
    seen = []
    for item in progress("abc", "letters"):
        seen.append((item, read_progress(path)["done"]))
        time.now += 2
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert read_progress(path)["total"] == 3
    assert list(progress(iter("ab"), "stream", total=2)) == ["a", "b"]


def test_without_a_terminal_there_is_a_line_every_fifteen_seconds(time, capsys):
    with progress(1200, "clip") as bar:
        for _ in range(40):
            time.now += 1
            bar.advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "clip: 150 of 1,200, 10/s, 1:45 left",
        "clip: 300 of 1,200, 10/s, 1:30 left",
    ]


def test_a_full_disk_does_not_end_the_work(time, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_PROGRESS", str(tmp_path / "file" / "progress.json"))
    (tmp_path / "file").write_text("in the way")
    assert list(progress([1, 2], "x")) == [1, 2]


def test_lines_and_clock():
    assert progress_line({"label": "a", "done": 3, "total": None, "rate": 0.25, "eta_s": None}) == "a: 3, 0.25/s"
    assert progress_line({}) == ": 0"
    assert (clock(59.6), clock(61), clock(3723)) == ("1:00", "1:01", "1:02:03")


def test_a_note_stands_beside_the_count_and_is_asked_for_only_when_shown(time, capsys):
    asked = []

    def note():
        asked.append(time.now)
        return f"loss {len(asked)}"

    with Progress("x", 100) as bar:
        for _ in range(30):
            time.now += 1
            bar.update(bar.done + 1, note)
    assert capsys.readouterr().err.splitlines() == [
        "x: 15 of 100, 1/s, 1:25 left, loss 1",
        "x: 30 of 100, 1/s, 1:10 left, loss 2",
    ]
    assert asked == [115.0, 130.0]
