"""Files that a stranger may have written, read as data: their kind, size, depth and numbers are bounded.

Whatever is read from an export, a run, a CLIP folder, embeddings or a data set goes through here, so that one line is
the worst that a file can do. SECURITY.md says what is trusted and what is not.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from modules.errors import InputError

MAX_CONFIG = 2**18
"""Bytes of a config: ours have 2 to 20 kB."""

MAX_TABLE = 2**31
"""Bytes of a table or a COCO file of captions, which is read whole: ten million pairs have one of 1 GB."""

MAX_NODES = 20_000
"""Values that a config's YAML may hold when its aliases are written out."""

MAX_DEPTH = 64
"""How far lists and mappings may lie in each other."""

MAX_NUMBER = 2**63
"""Numbers beyond it are no size, seed or index of anything."""


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, opened for reading; a FIFO or a device is not waited for.

    Raises:
        InputError: it is neither a regular file nor a link to one.
        OSError: it is missing, may not be read, or is a link without an end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(21, os.strerror(21), str(path))
        raise InputError(
            f"{printable(str(path))} is a FIFO, a socket or a device, where a file is read: name a file. What a "
            "program prints, as in <(...), has to be written to one before"
        )
    return os.fdopen(descriptor, "rb")


def within(folder: str | Path, path: Path) -> Path:
    """A path below a folder, if no link on the way leads out of the folder.

    Raises:
        InputError: it does.
    """
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(f"{printable(str(path))} is a link that leads out of the folder; put the file itself there")
    return path


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: no regular file, or one of more than `limit` bytes.
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{printable(str(path))} has over {limit:,} bytes, more than such a file may have")
    return content


def read_yaml(path: str | Path) -> Any:
    """A small YAML file as plain values: safe tags only, no class is made of it.

    Raises:
        InputError: too large, too deep, absurd numbers, or aliases that would be written out without end.
        OSError, UnicodeDecodeError, yaml.YAMLError: missing, no UTF-8, no YAML.
    """
    return parse_yaml(read_bytes(path, MAX_CONFIG).decode("utf-8-sig"), printable(str(path)))


def parse_yaml(text: str, name: str) -> Any:
    """As `read_yaml`, for a text; messages call it `name`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        _written_out(node, name, {}, set())
        loader = yaml.SafeLoader("")
        try:
            content = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise InputError(f"{name}: lists and mappings lie more than {MAX_DEPTH} deep in each other") from None
    except (ValueError, OverflowError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} holds a value that cannot be read ({_short(error)})") from None
    check_plain(content, name)
    return content


def _written_out(node: yaml.Node, name: str, known: dict[int, int], above: set[int], depth: int = 0) -> int:
    """How many values a node has with its aliases written out; each node is looked at once."""
    if id(node) in above:
        raise InputError(f"{name}: an alias holds itself")
    if depth > MAX_DEPTH:
        raise InputError(f"{name}: lists and mappings lie more than {MAX_DEPTH} deep in each other")
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        above.add(id(node))
        total = 1 + sum(_written_out(child, name, known, above, depth + 1) for child in children)
        above.discard(id(node))
        if total > MAX_NODES:
            raise InputError(f"{name} holds over {MAX_NODES:,} values when its aliases are written out")
        known[id(node)] = total
    return known[id(node)]


def parse_json(text: str | bytes, name: str) -> Any:
    """JSON as plain values, of numbers that are finite and depths that are bounded.

    Raises:
        InputError: no JSON, too deep, NaN, or a number that is nothing's.
    """
    try:
        content = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise InputError(f"{name}: lists and mappings lie more than {MAX_DEPTH} deep in each other") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise InputError(f"{name}: {error}") from None
        raise InputError(f"{name} is not JSON ({_short(error)})") from None
    check_plain(content, name)
    check_text(content, name)
    return content


def check_text(content: Any, name: str) -> None:
    """Refuse text that is no Unicode (half a surrogate pair): no file could hold it.

    Raises:
        InputError: names the file.
    """
    for _, value in _values(content):
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise InputError(f"{name} holds text that is not Unicode: {value[:40]!a}") from None


def read_json(path: str | Path, limit: int = MAX_CONFIG) -> Any:
    """A JSON file, see `parse_json` and `read_bytes`."""
    return parse_json(read_bytes(path, limit), printable(str(path)))


def check_plain(content: Any, name: str) -> None:
    """Refuse depths and numbers that no file of ours holds.

    Raises:
        InputError: names the file.
    """
    for depth, value in _values(content):
        if depth > MAX_DEPTH:
            raise InputError(f"{name}: lists and mappings lie more than {MAX_DEPTH} deep in each other")
        if isinstance(value, int) and not -MAX_NUMBER < value < MAX_NUMBER:
            raise InputError(f"{name} holds a whole number of {value.bit_length()} bits: nothing has that size")


def _values(content: Any) -> Iterator[tuple[int, Any]]:
    """Every value and its depth; values beyond the largest depth are not looked into."""
    left = [(0, content)]
    while left:
        depth, value = left.pop()
        yield depth, value
        if isinstance(value, dict):
            left += [(depth + 1, part) for part in (*value.keys(), *value.values())]
        elif isinstance(value, (list, tuple, set)):
            left += [(depth + 1, part) for part in value]


def _no_constant(text: str) -> float:
    raise InputError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"{text[:20]} is no finite number")
    return value


def _short(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:120])


def reason(error: Exception) -> str:
    """An error's text for a message, with its class, because a KeyError has only a name; never the file's content."""
    return f"{type(error).__name__}: {_short(error)}"


def printable(text: str) -> str:
    """A text for a terminal: characters that steer it (escapes, line ends) are written as Python writes them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
