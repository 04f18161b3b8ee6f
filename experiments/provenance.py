"""Where a result comes from: the commit of the code and a hash of the configuration."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@cache
def commit(root: Path = ROOT) -> str | None:
    """The commit of the code in `root`, with "+" behind it when tracked files have changed since; None outside git.

    None also when `root` merely lies inside another repository, as an installed package may.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return None
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return _git(root, "rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def config_hash(config: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that identify a configuration's values, whatever the order of its keys.

    Args:
        config: nested mappings and lists of JSON-able values (paths count as their text).
    """
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
