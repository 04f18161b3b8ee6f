"""Nothing half-written is ever seen, and an error leaves what was there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.files import replacing_files, replacing_folder, require_place, write_file, write_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_when_it_is_complete(tmp_path: Path):
    with replacing_folder(tmp_path / "new") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "new").exists()
    assert names(tmp_path) == ["new"] and names(tmp_path / "new") == ["a"]


def test_folder_is_replaced_as_a_whole(tmp_path: Path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("1")
    with replacing_folder(tmp_path / "old") as partial:
        (partial / "b").write_text("2")
    assert names(tmp_path) == ["old"] and names(tmp_path / "old") == ["b"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_error_leaves_the_old_folder(tmp_path: Path, error: BaseException):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("1")
    with (
        pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt),
        replacing_folder(tmp_path / "old") as partial,
    ):
        (partial / "b").write_text("2")
        raise error
    assert names(tmp_path) == ["old"] and names(tmp_path / "old") == ["a"]


def test_failed_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("1")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(("partial", "-old")) is False and ".partial-" in self.name:
            raise OSError(13, os.strerror(13))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="Permission denied"), replacing_folder(tmp_path / "old"):
        pass
    assert names(tmp_path) == ["old"] and names(tmp_path / "old") == ["a"]


def test_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_file(tmp_path / "sub" / "a.txt", "é")
    write_file(tmp_path / "sub" / "b.bin", b"\x00")
    assert (tmp_path / "sub" / "a.txt").read_text(encoding="utf-8") == "é"
    assert names(tmp_path / "sub") == ["a.txt", "b.bin"]

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"a\.txt: No space left on device"):
        write_file(tmp_path / "sub" / "a.txt", "new")
    assert (tmp_path / "sub" / "a.txt").read_text(encoding="utf-8") == "é"
    assert names(tmp_path / "sub") == ["a.txt", "b.bin"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_file(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(InputError, match="cannot write"), replacing_folder(tmp_path / "file" / "folder"):
        pass


def test_files_are_all_there_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old, new, last = (tmp_path / name for name in ("old", "new", "last"))
    old.write_text("before")
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == last:
            raise OSError(28, os.strerror(28))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=r"cannot write .*last: No space left on device"):
        write_files({old: "after", new: b"1", last: "2"})
    assert names(tmp_path) == ["old"] and old.read_text() == "before"
    monkeypatch.undo()
    write_files({old: "after", new: b"1", tmp_path / "folder" / "last": "2"})
    assert names(tmp_path) == ["folder", "new", "old"] and (old.read_text(), new.read_text()) == ("after", "1")


@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt()])
def test_files_go_back_with_what_fails_after_them(tmp_path: Path, error: BaseException):
    (tmp_path / "old").write_text("before")
    with pytest.raises(type(error)), replacing_files({tmp_path / "old": "after", tmp_path / "new": "1"}):
        assert (tmp_path / "old").read_text() == "after" and (tmp_path / "new").exists()
        raise error
    assert names(tmp_path) == ["old"] and (tmp_path / "old").read_text() == "before"


def test_a_place_is_looked_at_before_there_is_a_content(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    require_place(tmp_path / "file")
    require_place(tmp_path / "new" / "deeper" / "file")
    with pytest.raises(InputError, match="a folder is in its place"):
        require_place(tmp_path / "folder")
    with pytest.raises(InputError, match=r"no folder at .*file; choose"):
        require_place(tmp_path / "file" / "x")
    assert names(tmp_path) == ["file", "folder"]
