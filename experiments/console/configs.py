"""The config files that a command line names, checked in milliseconds before torch is imported."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path

LIGHTNING = ("fit", "validate", "test", "predict")


def config_files(words: Sequence[str]) -> list[str]:
    """The values of --config (and of LightningCLI's -c) in the words of a command, its name first."""
    found = [word.split("=", 1)[1] for word in words if word.startswith("--config=")]
    flags = ("--config", "-c") if words[0] in LIGHTNING else ("--config",)
    return found + [value for flag, value in itertools.pairwise(words) if flag in flags]


def check_config_file(path: Path) -> None:
    """Open and parse a config: in milliseconds, before torch is imported.

    Raises:
        InputError: it is missing, unreadable, not YAML, or no mapping.
    """
    import yaml

    from modules.errors import InputError

    if path.is_dir():
        raise InputError(f"config {str(path)!r} is a folder; give a YAML file in it")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"config {str(path)!r} does not exist{nearest_config(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"config {str(path)!r} cannot be read: {reason}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"config {str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"config {str(path)!r} holds no settings: expected 'key: value' lines")


def nearest_config(path: Path) -> str:
    """'; did you mean ...?' if a YAML of a similar name is about, else a hint of where YAMLs are."""
    folder = path.parent if path.parent.is_dir() else Path("experiments")
    names = [str(other) for other in folder.rglob("*.yaml")] if folder.is_dir() else []
    close = difflib.get_close_matches(str(path), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "; the suite's YAMLs are in experiments/"
