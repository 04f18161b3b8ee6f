"""The house: no imports in circles, no command that imports a command, no folder that is hard to look through."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import grimp
import pytest

from experiments.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("unclip", "modules", "datamodules", "eval", "experiments")
MOST = 15


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that import each other, directly or not: what is left when leaves and roots are taken away."""
    left = {name: set(others) for name, others in imports.items()}
    while True:
        imported = set().union(*left.values()) if left else set()
        gone = {name for name, others in left.items() if not others & left.keys() or name not in imported}
        if not gone:
            return [set(left)] if left else []
        left = {name: others - gone for name, others in left.items() if name not in gone}


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


def test_nothing_imports_in_circles(graph):
    lazy = ("modules.clip", "datamodules.embeddings")  # Packages that hand on names of their own modules.
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules if name not in lazy}
    assert circles(imports) == []


def test_no_command_imports_a_command(graph):
    commands = {f"experiments.{module}" for module, _ in COMMANDS.values()}
    found = {name: graph.find_modules_directly_imported_by(name) & commands for name in graph.modules}
    allowed = {"experiments.cli"}
    assert {name: sorted(others) for name, others in found.items() if others and name not in allowed} == {}


@pytest.mark.parametrize("top", [*PACKAGES, "benchmarks", "tests"])
def test_a_folder_holds_few_enough_files(top):
    counts = Counter(path.parent.relative_to(ROOT) for path in (ROOT / top).rglob("*.py"))
    assert {str(folder): count for folder, count in counts.items() if count > MOST} == {}


@pytest.mark.parametrize("file", ["noxfile.py", "tests/conftest.py"])
def test_the_tests_that_a_file_names_are_there(file):
    named = re.findall(r'"(tests/[^"]+)"', (ROOT / file).read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []
