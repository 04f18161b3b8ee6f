"""`unclip`: light to import, and clear about another `modules/` or `eval/` that stands in front of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unclip
from unclip import packages

ROOT = Path(__file__).parents[2]


def python(*words: str, cwd: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    """Python in a folder, which `-c` and `-m` put in front of `path`."""
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONSAFEPATH", None)
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(params=["package", "file"])
def users(request, tmp_path):
    """A `modules` of somebody else's, in a folder of its own."""
    if request.param == "file":
        (tmp_path / "modules.py").write_text("own = 1\n")
        return tmp_path / "modules.py"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "__init__.py").write_text("own = 1\n")
    return tmp_path / "modules"


def test_importing_it_is_light(tmp_path):
    code = (
        "import sys, unclip; unclip.__version__; dir(unclip); "
        "print(sorted({'torch', 'numpy', 'lightning', 'modules', 'experiments'} & set(sys.modules)))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_its_names_are_the_classes():
    from modules.manipulations import Walk
    from modules.pipeline import UnCLIP

    assert unclip.UnCLIP is UnCLIP and unclip.Walk is Walk
    assert set(dir(unclip)) == {"UnCLIP", "Walk", "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'Wlak'"):
        unclip.Wlak  # noqa: B018


def test_the_version_is_the_distributions_or_the_checkouts(monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", lambda name: {"unclip": "9.8"}[name])
    assert unclip.__version__ == "9.8"

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert f'\nversion = "{unclip.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def refusal(folder: Path) -> str:
    """The line about a `modules` that stands in front of ours."""
    return (
        f"{folder} stands in front of unclip's own package 'modules' at {ROOT / 'modules'}: rename it, or start Python "
        "in another folder and without it in PYTHONPATH"
    )


def test_another_package_in_front_is_named_in_one_line(users):
    done = python("-c", "from unclip import UnCLIP", cwd=users.parent)
    assert done.stderr.strip().splitlines()[-1] == f"ImportError: {refusal(users)}"


EDITABLE = f"""
import sys
from importlib.machinery import PathFinder

class Finder:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if path is None else None

sys.meta_path.append(Finder)
"""


def test_a_folder_that_is_no_package_hides_an_editable_installation(tmp_path):
    """Python asks an editable installation's finder after its path, on which any folder counts."""
    (tmp_path / "modules").mkdir()
    done = python("-c", f"{EDITABLE}\nfrom unclip import UnCLIP", cwd=tmp_path, path="")
    assert done.stderr.strip().splitlines()[-1] == f"ImportError: {refusal(tmp_path / 'modules')}"
    code = "from unclip.__main__ import main; code = main(['sampel']); import modules.errors; sys.exit(code)"
    done = python("-c", f"{EDITABLE}\n{code}", cwd=tmp_path, path="")
    assert done.returncode == 2 and done.stderr.startswith("unclip: unknown command 'sampel'")


def test_the_command_line_works_all_the_same(users, tmp_path):
    code = "import modules.errors, eval.errors, sys; print(modules.errors.__file__, eval.errors.__file__)"
    script = f"from unclip.__main__ import take_own; take_own(); {code}"
    done = python("-c", script, cwd=tmp_path)
    assert done.stdout.split() == [str(ROOT / name / "errors.py") for name in ("modules", "eval")], done.stderr
    done = python("-m", "unclip", "sampel", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("unclip: unknown command 'sampel'")


def test_a_foreign_package_that_is_imported_already_is_one_line(users, tmp_path):
    code = "import modules, sys; from unclip.__main__ import main; sys.exit(main(['sample', '--help']))"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"unclip: {refusal(users)}\n"


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    monkeypatch.setattr(packages, "_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"unclip's package 'modules' is missing at {tmp_path}.*: install"):
        packages.require_own()
    for name in packages.PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match="'modules' is missing"):
        packages.take_own()
