"""Checks that Python finds the packages of this project, and not another folder named `modules/` or `eval/`.

Python takes the first package of a name on its path, and `python script.py`, `python -m` and notebooks put a folder of
the user's first.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PACKAGES = ("modules", "datamodules", "eval", "experiments")
ROOT = Path(__file__).resolve().parents[1]


def require_own() -> None:
    """Check that Python finds this project's packages.

    Raises:
        ImportError: another package of that name stands in front of ours, or ours is missing. One line says which.
    """
    for name in PACKAGES:
        _refuse_foreign(name, _spec(name))


def take_own() -> None:
    """Make Python use this project's packages, even if others stand in front of them: for our own command line.

    Raises:
        ImportError: another package of that name has been imported already, or ours is missing.
    """
    for name in PACKAGES:
        if name in sys.modules:
            _refuse_foreign(name, _spec(name))
        elif not _is_own(name, _spec(name)):
            _load_own(name)


def version() -> str:
    """The version of the installed distribution, or the one that pyproject.toml of a checkout names."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("unclip")
    except PackageNotFoundError:
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        found = re.search(r'^version = "([^"]+)"$', text, re.MULTILINE)
        return found[1] if found else "unknown"


def _spec(name: str) -> ModuleSpec | None:
    """Where Python would import a package from, or has imported it from."""
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # A module that a program has put there by hand.
        return None


def _folder(spec: ModuleSpec | None) -> Path | None:
    """The package's folder, or the file of a module that is no package."""
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    if places:
        return Path(places[0]).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def _is_own(name: str, spec: ModuleSpec | None) -> bool:
    return _folder(spec) == ROOT / name


def _refuse_foreign(name: str, spec: ModuleSpec | None) -> None:
    if _is_own(name, spec):
        return
    found = _folder(spec)
    if found is None:
        raise ImportError(f"unclip's package {name!r} is missing at {ROOT / name}: install unclip again", name=name)
    raise ImportError(
        f"{found} stands in front of unclip's own package {name!r} at {ROOT / name}: rename it, or start Python in "
        "another folder and without it in PYTHONPATH",
        name=name,
        path=str(found),
    )


def _load_own(name: str) -> None:
    """Import our package from its place, whatever the path says; its modules are then found in it."""
    spec = PathFinder.find_spec(name, [str(ROOT)])
    if spec is None or spec.loader is None or not _is_own(name, spec):
        raise ImportError(f"unclip's package {name!r} is missing at {ROOT / name}: install unclip again", name=name)
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
