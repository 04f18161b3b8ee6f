"""The README's commands that need no training run as they stand, one after another, on the shipped weights."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from experiments.cli import main

README = Path(__file__).parents[1] / "README.md"
DRAW = ("sample", "variations", "interpolate", "text-diff", "inpaint")


def commands(text: str) -> list[list[str]]:
    """The words of each `unclip` line of the indented blocks, comments left out, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [shlex.split(line, comments=True)[1:] for line in re.findall(r"^ {4}(unclip .*)$", joined, re.MULTILINE)]


def test_commands_are_found():
    text = '    unclip sample "a b" \\\n        -n 2 --out x   # four\n\nunclip no\n    make it\n'
    assert commands(text) == [["sample", "a b", "-n", "2", "--out", "x"]]


def test_the_readme_is_short_and_says_first_what_is_looked_for_first():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) < 900
    order = ["![Captions", "**Paper**", "make quickstart", "unclip sample", "from unclip import", "| z_i by |"]
    order += ["unclip new", "unclip text-diff", "unclip import karlo", "## Scale", "## Contribute"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.timeout(600)
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for words in commands(README.read_text(encoding="utf-8")):
        pictures = [word for word in words if word.endswith(".png")]
        of_a_run = any(word.startswith("runs/") for word in words)
        if words[0] not in DRAW or of_a_run or not all(Path(name).exists() for name in pictures):
            continue  # Those need a training; the tests of suites and of own data run them.
        assert main([*words, "--device", "cpu"]) == 0, words
        out = Path(words[words.index("--out") + 1])
        assert list(out.rglob("*.png")), words
        ran.append(words[0])
    assert list(dict.fromkeys(ran)) == list(DRAW)
