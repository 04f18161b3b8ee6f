"""A stage's YAML as Lightning would read it, without running anything."""

from __future__ import annotations

from typing import Any

from experiments.console.quiet import quiet
from experiments.training.lightning_cli import CLI


class Settings(CLI):
    """Reads what `unclip fit` reads, and makes nothing of it."""

    def before_instantiate_classes(self) -> None:
        """No run folder is looked at."""

    def instantiate_classes(self) -> None:
        """Nothing is made."""


def read(words: list[str]) -> dict[str, Any]:
    """The whole configuration of a stage's training, defaults included."""
    quiet()
    return Settings("fit", words).dump()
