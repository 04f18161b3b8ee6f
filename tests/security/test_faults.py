"""What goes wrong on the way is one line: names for the terminal, folders that go, disks that fill, locks that fail."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil

import pytest

from datamodules.faults import Fault, FaultLog, FaultPolicy
from eval.samples.shards import Shards
from experiments.cli import main
from experiments.console.errors import complain
from experiments.storage.holding import holding
from experiments.training.stage_folder import RunFolder
from modules.errors import InputError
from modules.untrusted.reading import printable
from modules.untrusted.writing import warn_without_locks

ESCAPE = "\x1b]0;OWNED\x07\x9b31m\r\u202e.png"


def test_nothing_that_steers_a_terminal_reaches_it(capsys, caplog):
    log = FaultLog(FaultPolicy(max_skipped=1), "train")
    with caplog.at_level(logging.WARNING):
        log.add(Fault(f"d/{ESCAPE}", "no caption", ESCAPE))
    complain(f"cannot read {ESCAPE}")
    for text in (caplog.text.rstrip("\n"), capsys.readouterr().err.rstrip("\n")):
        assert r"\x1b]0;OWNED\x07\x9b31m\r\u202e.png" in text
        assert all(c.isprintable() for c in text.replace("\n", ""))
    assert printable("a small red circle, é 红") == "a small red circle, é 红"


def test_nor_do_names_in_data(tmp_path, capsys, monkeypatch):
    from PIL import Image

    for k in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.txt").write_text("a red circle")
    Image.new("RGB", (8, 8)).save(tmp_path / f"nocap{ESCAPE}")
    page = tmp_path / "page.html"
    main(["data", "check", str(tmp_path), "--image-size", "8", "--out", str(page)])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x9b" not in said.out + said.err
    assert "nocap" in said.out + said.err + page.read_text()


def test_a_run_folder_that_goes_is_noticed(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.prepare({"a": 1}, start_again=True)
    run.check_still_there()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="was removed or renamed during the training"):
        run.check_still_there()


def test_a_lock_that_goes_is_noticed(tmp_path):
    with (
        pytest.raises(InputError, match="run x was removed or renamed"),
        holding(tmp_path / "r" / ".lock", "run x", "wait"),
    ):
        shutil.rmtree(tmp_path / "r")
    with (
        pytest.raises(InputError, match="run x was removed or renamed"),
        holding(tmp_path / "r" / ".lock", "run x", "wait"),
    ):
        (tmp_path / "r").rename(tmp_path / "s")
    with pytest.raises(KeyError), holding(tmp_path / "s" / ".lock", "run x", "wait"):
        shutil.rmtree(tmp_path / "s")
        raise KeyError  # What went wrong first is told.


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def without_locks(request, monkeypatch):
    """A file system that has no locks; gives the number that it says so with."""

    def refuse(*arguments):
        raise OSError(request.param, os.strerror(request.param))

    for name in ("lockf", "flock"):
        monkeypatch.setattr(fcntl, name, refuse)
    warn_without_locks.cache_clear()
    return request.param


def test_file_systems_without_locks_are_worked_on(without_locks, tmp_path, capsys):
    with holding(tmp_path / ".lock", "run x", "wait"), holding(tmp_path / ".other", "run y", "wait"):
        pass
    assert capsys.readouterr().err.count("the file system has no locks") == 1


def test_pictures_are_drawn_on_file_systems_without_locks(without_locks, tmp_path, capsys):
    with Shards(tmp_path / "a").started({"a": 1}) as done, Shards(tmp_path / "b").started({}):
        assert done == 0
    said = capsys.readouterr().err.count("the file system has no locks")
    assert said == (without_locks != errno.ENOSYS)  # With ENOSYS filelock takes another way.
