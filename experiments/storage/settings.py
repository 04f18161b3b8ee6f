"""Settings as they stand in YAML: which ones differ between two configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def differences(old: dict[str, Any], new: dict[str, Any], ignore: Sequence[str] = ()) -> list[str]:
    """'key: old -> new' for each setting that differs, but for those in `ignore` and below them."""
    before, after = flat(old), flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    keys = [key for key in keys if not any(key == name or key.startswith(f"{name}.") for name in ignore)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    parts = (flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in content.items())
    return {key: value for part in parts for key, value in part.items()}
