"""The log of a stage: what is kept, and when nothing is written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from experiments.console import progress
from experiments.console.progress import FILE_VARIABLE, Progress
from experiments.training.trainer.log_file import note, tell
from modules.errors import InputError


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    return SimpleNamespace(default_root_dir=str(tmp_path), fast_dev_run=False)


def test_lines_are_printed_and_appended(trainer, tmp_path, capsys):
    tell(trainer, "clip: step 1 of 2")
    tell(trainer, "clip: step 2 of 2: train/loss 0.5")
    assert capsys.readouterr().out == (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.txt").read_text() == "clip: step 1 of 2\nclip: step 2 of 2: train/loss 0.5\n"


def test_progress_is_kept_on_a_terminal_too(trainer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Progress("clip", 2, keep=lambda line: note(trainer, line)) as bar:
        bar.update(1, lambda: "train/loss 0.5")
        bar._bar = SimpleNamespace(update=lambda *_, **__: None, stop=lambda: None), 0  # As on a terminal.
        capsys.readouterr()
        bar.update(2, lambda: "train/loss 0.25")
        assert capsys.readouterr().err == ""
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.rpartition(", ")[2] for line in lines[1:3]] == ["train/loss 0.5", "train/loss 0.25"]


def test_a_suite_keeps_the_log_itself_and_a_trial_leaves_no_files(trainer, tmp_path, monkeypatch, capsys):
    trainer.fast_dev_run = True
    tell(trainer, "one")
    trainer.fast_dev_run = False
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "progress.json"))
    tell(trainer, "two")
    assert capsys.readouterr().out == "one\ntwo\n" and list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_log_is_refused(trainer, tmp_path):
    (tmp_path / "elsewhere").touch()
    (tmp_path / "log.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"log\.txt"):
        note(trainer, "one")
    assert (tmp_path / "elsewhere").read_bytes() == b""
