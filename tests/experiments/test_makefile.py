"""The Makefile: its targets, and stamps that stand only for what has succeeded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
# Stands for an interpreter: makes a venv whose pip notes what it installs, and fails when told to.
case "$1" in
  -c) exec {python} "$@" ;;
  --version) echo "Python 3.9.1" ;;
  -m) mkdir -p "$3/bin"; cp "$0" "$3/bin/python.tmp"
      printf '#!/bin/sh\\necho "$@" >> pip.log\\ntest ! -e broken\\n' > "$3/bin/python"; chmod +x "$3/bin/python" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the Makefile and an interpreter that installs nothing."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    fake = tmp_path / "fake-python"
    fake.write_text(PYTHON.format(python=sys.executable))
    fake.chmod(0o755)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True)


def installed(folder: Path) -> list[str]:
    path = folder / "pip.log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split()[-1] for line in lines]


def test_help_lists_every_target(clone):
    result = make(clone)
    named = {line.split()[1] for line in result.stdout.splitlines()}
    text = (clone / "Makefile").read_text()
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert named == set(phony)


def test_a_second_installation_installs_nothing_and_a_changed_project_does(clone):
    assert make(clone, "install", "PYTHON=./fake-python").returncode == 0
    assert installed(clone) == ["."]
    assert make(clone, "install", "PYTHON=./fake-python").returncode == 0
    assert installed(clone) == []
    assert make(clone, "install-dev", "PYTHON=./fake-python").returncode == 0
    assert installed(clone) == [".[dev]"]
    later = (clone / ".venv/.stamp-dev").stat().st_mtime + 10
    os.utime(clone / "pyproject.toml", (later, later))
    assert make(clone, "install", "PYTHON=./fake-python").returncode == 0
    assert installed(clone) == ["."]


def test_a_broken_installation_leaves_no_stamp_and_is_repeated(clone):
    (clone / "broken").touch()
    assert make(clone, "install", "PYTHON=./fake-python").returncode != 0
    assert not (clone / ".venv/.stamp-base").exists()
    (clone / "broken").unlink()
    installed(clone)
    assert make(clone, "install", "PYTHON=./fake-python").returncode == 0
    assert installed(clone) == ["."]


def test_an_old_python_is_one_clear_line(clone):
    (clone / "fake-python").write_text((clone / "fake-python").read_text().replace(f"exec {sys.executable}", "false"))
    result = make(clone, "install", "PYTHON=./fake-python")
    assert result.returncode != 0
    assert "unclip needs Python 3.10 or newer; './fake-python' is Python 3.9.1." in result.stderr
    assert not (clone / ".venv").exists()


def test_a_missing_python_is_one_clear_line(clone):
    result = make(clone, "install", "PYTHON=python-none")
    assert "unclip needs Python 3.10 or newer; 'python-none' is" in result.stderr
