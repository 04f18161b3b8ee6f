"""Nothing half-written is ever seen, and an error leaves what was there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.files import replacing_folder, write_file


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
