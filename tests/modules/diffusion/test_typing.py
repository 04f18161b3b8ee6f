"""`make lint` holds modules/diffusion to what `mypy --strict` asks for, whatever else the configuration says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
ROOT = Path(__file__).parents[3]


def strict_flags() -> list[str]:
    """What this version of mypy says that --strict enables, as in ["--disallow-any-generics", ...]."""
    text = subprocess.run([sys.executable, "-m", "mypy", "--help"], capture_output=True, text=True, check=True).stdout
    listed = re.search(r"--strict\s+Strict mode; enables the following flags:(.+?)\n  --\w", text, re.DOTALL)
    assert listed is not None
    # A flag is broken over two lines at any of its hyphens.
    return re.findall(r"--[a-z-]+", re.sub(r"-\s*\n\s+", "-", listed[1]))


def enabled(flag: str, settings: dict[str, Any]) -> bool:
    name = flag.removeprefix("--").replace("-", "_")
    positive = name.removeprefix("no_")
    return settings.get(name) is True or (name != positive and settings.get(positive) is False)


def test_the_configuration_has_every_flag_of_strict() -> None:
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "modules" in mypy["files"]
    (override,) = (
        o
        for o in mypy["overrides"]
        if "modules.diffusion.*" in ([o["module"]] if isinstance(o["module"], str) else o["module"])
    )
    flags = strict_flags()
    assert len(flags) > 10
    assert [flag for flag in flags if not enabled(flag, {**mypy, **override})] == []


def test_lint_runs_mypy_with_that_configuration() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert "\t$(BIN)/mypy\n" in recipe[1]


def test_no_error_is_ignored_without_saying_which() -> None:
    folder = ROOT / "modules" / "diffusion"
    bare = [path.name for path in folder.glob("*.py") if re.search(r"type: ignore(?!\[)|mypy:", path.read_text())]
    assert bare == []
