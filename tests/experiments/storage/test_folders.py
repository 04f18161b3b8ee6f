"""Files are written whole or not at all; what is in the way is moved aside."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from experiments.storage.folders import read_json, set_aside, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def write(file):
        file.write(b"half of the new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as raised:
        write_atomically(path, write)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_readers_never_see_a_part(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"n" * 100_000)
        file.flush()
        seen.append(path.read_bytes())

    with path.open("rb") as reader:
        write_atomically(path, write)
        assert reader.read() == b"old"  # another file has taken its name; this one was not written over
    assert seen == [b"old"]
    assert path.read_bytes() == b"n" * 100_000


def test_file_and_folder_are_synced_before_it_counts(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
    assert synced == ["file", "folder"]


def test_json_that_is_damaged_counts_as_absent(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    path.write_text('{"a": ')
    assert read_json(path) is None


def test_one_previous_version_is_kept(tmp_path):
    folder, shelf = tmp_path / "stage", tmp_path / ".previous" / "stage"
    for text in ("first", "second"):
        folder.mkdir()
        (folder / text).write_text(text)
        set_aside(folder, shelf)
    set_aside(folder, shelf)  # nothing there: nothing moves
    assert not folder.exists()
    assert [entry.name for entry in shelf.iterdir()] == ["second"]
