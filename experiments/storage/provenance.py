"""The origin of a result: the commit of the code and a hash of the configuration."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


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


def file_hashes(path: str | Path) -> str | None:
    """12 hexadecimal digits for a file, or a folder's weights, configs and manifests; None if it is not there.

    Images count through the checksums in their manifest. Of a file above 256 MiB only size and time are looked at.
    """
    path = Path(path)
    if not path.exists():
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.suffix in {".safetensors", ".pt", ".json", ".jsonl", ".yaml", ".npz"} or file == path:
            content = (
                file.read_bytes()
                if file.stat().st_size < 1 << 28
                else repr((file.stat().st_size, file.stat().st_mtime_ns)).encode()
            )
            digest.update(f"{file.relative_to(path)}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]
