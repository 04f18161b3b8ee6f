"""`unclip data download-emoji`: npm gets the packages, and without it a person is told which files to put where."""

import importlib.util
import stat
import sys
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.data.emoji_download import download, notice

spec = importlib.util.spec_from_file_location(
    "packages_of_styles", Path(__file__).parents[2] / "datamodules" / "test_emoji_styles.py"
)
styles = importlib.util.module_from_spec(spec)
spec.loader.exec_module(styles)


def fake_npm(tmp_path, monkeypatch, script):
    """An `npm` that is first on the PATH."""
    path = tmp_path / "bin" / "npm"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path.parent))
    return path


COPY = """
import shutil, sys
command, package, flag, folder, _ = sys.argv[1:]
assert (command, flag) == ("pack", "--pack-destination"), sys.argv
name = package.removeprefix("@iconify-json/")
print(name, file=open({log!r}, "a"))
shutil.copy({source!r} + f"/iconify-json-{{name}}-1.2.3.tgz", folder)
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    for name, title in (("noto", "Noto Emoji"), ("noto-v1", "Noto Emoji (v1)"), ("twemoji", "Twitter Emoji")):
        styles.pack(tmp_path / "source", styles.content(name, title, "#f00"))
    fake_npm(tmp_path, monkeypatch, COPY.format(source=str(tmp_path / "source"), log=str(tmp_path / "log")))
    return tmp_path / "log"


def test_packages_are_got_once_and_licences_written_beside(tmp_path, npm, capsys):
    out = tmp_path / "data"
    assert main(["data", "download-emoji", "--out", str(out), "--sets", "noto-v1", "noto"]) == 0
    assert "noto: 40 drawings, Noto Emoji by An Author (Apache 2.0" in capsys.readouterr().out
    assert [found.prefix for found in download(out, ["noto", "twemoji"])] == ["noto", "twemoji"]
    assert npm.read_text().split() == ["noto-v1", "noto", "twemoji"]
    said = (out / "NOTICE.txt").read_text()
    for title in ("Noto Emoji by", "Noto Emoji (v1) by", "Twitter Emoji by"):
        assert said.count(title) == 1
    assert "@iconify-json/twemoji 1.2.3" in said


def test_without_npm_the_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["data", "download-emoji", "--out", str(tmp_path / "e"), "--sets", "noto", "twemoji"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "npm is not installed" in said
    assert "`npm pack @iconify-json/noto @iconify-json/twemoji`" in said
    assert f"put iconify-json-noto-VERSION.tgz, iconify-json-twemoji-VERSION.tgz into {tmp_path / 'e'}" in said


def test_what_is_there_needs_no_npm(tmp_path, monkeypatch):
    styles.pack(tmp_path / "e", styles.content("noto", "Noto Emoji", "#f00"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = download(tmp_path / "e", ["noto"])
    assert notice([found]) in (tmp_path / "e" / "NOTICE.txt").read_text()


def test_an_npm_that_fails_is_quoted(tmp_path, monkeypatch, capsys):
    fake_npm(tmp_path, monkeypatch, "import sys\nsys.exit('E404 not\\nfound')")
    assert main(["data", "download-emoji", "--out", str(tmp_path / "e"), "--sets", "noto"]) == 2
    assert "npm could not get @iconify-json/noto (E404 not found); on a machine that has it" in capsys.readouterr().err


def test_a_name_is_no_option(tmp_path, capsys):
    assert main(["data", "download-emoji", "--out", str(tmp_path), "--sets", "a b"]) == 2
    assert "'a b' is no name of a set" in capsys.readouterr().err
