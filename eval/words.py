"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, thing: str, things: str = "") -> str:
    """'1 picture', '2,048 pictures'; `things` is an irregular plural."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"
