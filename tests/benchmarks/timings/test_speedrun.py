"""The speedrun: how many steps a budget buys, what it hands to `unclip fit`, and the rows it keeps."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks.timings import speedrun


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Trainings that take 2 CPU seconds and 0.5 for each step, judged without pictures."""
    commands = []

    def run(command, env, check):
        steps = int(next(word for word in command if "max_steps" in word).split("=")[1])
        commands.append((command, env))
        monkeypatch.setattr(speedrun.resource, "getrusage", clock(now[0] + 2 + 0.5 * steps))
        now[0] += 2 + 0.5 * steps
        return SimpleNamespace(returncode=0)

    def clock(seconds):
        return lambda who: SimpleNamespace(ru_utime=seconds, ru_stime=0.0)

    now = [0.0]
    monkeypatch.setattr(speedrun.resource, "getrusage", clock(0.0))
    monkeypatch.setattr(speedrun.subprocess, "run", run)
    monkeypatch.setattr(speedrun.Judged, "of", lambda run, pictures: None)
    monkeypatch.setattr(speedrun, "load_decoder", lambda folder, settings: settings)
    numbers = dict.fromkeys(speedrun.SHOWN, 0.25)
    monkeypatch.setattr(speedrun, "quality", lambda model, judged: {**numbers, "all": model["steps"] / 10})
    monkeypatch.setattr(speedrun, "validation_errors", lambda model, judged: {"mse 100": 1.5})
    words = ["speedrun", "--run", "runs/q", "--out", str(tmp_path), "--sampling", '{"steps": 4}', '{"steps": 8}']
    return SimpleNamespace(commands=commands, words=words, out=tmp_path)


def test_a_budget_buys_the_steps_that_two_short_trainings_say(made_up, monkeypatch, capsys):
    options = ["--cpu-seconds", "100", "--seed", "3", "--name", "mine", "--", "--model.x=1"]
    monkeypatch.setattr(sys, "argv", [*made_up.words, *options])
    assert speedrun.main() == 0
    assert [next(w for w in c if "max_steps" in w) for c, _ in made_up.commands] == [
        "--trainer.max_steps=10",
        "--trainer.max_steps=40",
        "--trainer.max_steps=200",
    ]
    command, environment = made_up.commands[-1]
    assert command[-1] == "--model.x=1" and "--seed_everything=3" in command
    assert environment["OMP_NUM_THREADS"] == "1" and environment["UNCLIP_RUN"] == "runs/q"
    rows = [json.loads(line) for line in (made_up.out / "speedrun.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["steps"], row["cpu seconds"], row["all"]) for row in rows] == [
        (3, 200, 102.0, 0.4),
        (3, 200, 102.0, 0.8),
    ]
    assert '| mine | {"steps": 8} | 3 | 200 | 102.0 | 0.250 |' in capsys.readouterr().out


def test_a_number_of_steps_needs_no_trial_and_rows_are_kept(made_up, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*made_up.words, "--steps", "7"])
    assert speedrun.main() == 0 and speedrun.main() == 0
    assert len(made_up.commands) == 2
    assert len((made_up.out / "speedrun.jsonl").read_text().splitlines()) == 4
