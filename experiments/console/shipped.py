"""Finds the YAMLs that ship: a path below `experiments/` that does not exist here is looked for in the package.

So `unclip fit --config experiments/quickstart/clip.yaml` works from any folder, and without a checkout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = "experiments"
SHIPPED = Path(__file__).resolve().parents[2]
"""The folder that the package `experiments` lies in: the checkout, or site-packages."""


def located(name: str | Path) -> Path:
    """The path itself if it exists; else, for a path below `experiments/`, the file or folder that ships.

    A path that is at neither place is returned as it is.
    """
    path = Path(name)
    if path.parts[:1] != (FOLDER,) or path.exists():
        return path
    shipped = SHIPPED / path
    return shipped if shipped.exists() else path


def located_words(words: Sequence[str]) -> list[str]:
    """A command's words with `located` paths in them, also behind the '=' of an option."""
    return [_located_word(word) for word in words]


def _located_word(word: str) -> str:
    option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{located(value)}" if value.startswith(f"{FOLDER}/") else word
