"""What is not Python is in the wheel too, and the warnings of this package's own code are errors in tests."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("unclip", "modules", "datamodules", "eval", "experiments")


def project() -> dict:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def shipped() -> list[Path]:
    """The files of the packages that are not Python."""
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    hidden = (path for path in files if "__pycache__" not in path.parts and not path.name.startswith("."))
    return [path for path in hidden if path.suffix not in (".py", ".pyc")]


def test_every_file_that_is_not_python_is_package_data():
    patterns = project()["tool"]["setuptools"]["package-data"]["*"]
    assert len(shipped()) > 30
    left_out = [path for path in shipped() if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
    assert not left_out


def test_the_folders_that_hold_them_are_packages():
    """Namespace packages are found too: the folders of YAMLs have no __init__.py."""
    from setuptools import find_namespace_packages

    include = project()["tool"]["setuptools"]["packages"]["find"]["include"]
    found = set(find_namespace_packages(str(ROOT), include=include))
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in shipped()}
    assert folders <= found
    assert {name.split(".")[0] for name in found} == set(PACKAGES)


def test_a_warning_that_our_code_causes_is_an_error_and_others_are_not(tmp_path):
    """pytest's own settings, on a module of ours and on one that is not."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "other").mkdir()
    for package in ("modules", "other"):
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "warns.py").write_text(
            "import warnings\ndef f():\n    warnings.warn('old', stacklevel=1)\n"
        )
    (tmp_path / "test_it.py").write_text(
        "from modules import warns as ours\nfrom other import warns as theirs\n"
        "def test_ours():\n    ours.f()\ndef test_theirs():\n    theirs.f()\n"
    )
    filters = project()["tool"]["pytest"]["ini_options"]["filterwarnings"]
    lines = "\n    ".join(filters)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = .\nfilterwarnings =\n    {lines}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_it.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "1 failed, 1 passed" in done.stdout
    assert "FAILED test_it.py::test_ours" in done.stdout
