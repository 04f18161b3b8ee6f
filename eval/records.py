"""The records of a run from which tables and figures are made; a stranger may have written them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.untrusted import printable, reason

LONGEST_TEXT = 4096
"""Characters of a text in a record: a figure has room for some hundred."""

DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What making a table of something else than records raises."""

NUMBERS = ("value", "low", "high")
WORDS: dict[type, str] = {dict: "mapping", str: "text", list: "list"}
KINDS: dict[str, tuple[type, ...]] = {
    "condition": (str,),
    "n": (int,),
    "settings": (dict,),
    "warnings": (list,),
    **dict.fromkeys(("accuracy", "accuracy_by_kind", "accuracy_by_count", "binding", "lettering", "spelled"), (dict,)),
    **dict.fromkeys(("drawn", "protocol", "published"), (dict,)),
    **dict.fromkeys(("frechet", "fid", "clip_score", "diversity", "kid", "precision", "recall", "cmmd"), (dict,)),
}
"""Keys of a row, and what they hold where they do not hold null."""
OF_PROTOCOL: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("n", "captions", "per_caption", "bootstrap", "reference_n"), (int,)),
    "level": (int, float),
}


def check_row(place: Path | str, row: Mapping[str, Any]) -> None:
    """Refuse a row of metrics, or a point of a sweep, with values of other kinds than tables are made of.

    Raises:
        InputError: names the file and the key.
    """
    if row.get("condition") is None or row.get("n", 0) is None:
        raise InputError(f"{place}: {'n' if row.get('condition') else 'condition'} is null; measure it again")
    for content, kinds in ((row, KINDS), (row.get("protocol") or {}, OF_PROTOCOL)):
        for key, kind in kinds.items():
            value = content.get(key) if isinstance(content, Mapping) else None
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                wanted = " or ".join(sorted({WORDS.get(each, "number") for each in kind}))
                raise InputError(f"{place}: {key} must be a {wanted}, found {_shown(value)}; measure it again")
    check_record(place, row)


def check_record(place: Path | str, content: Any) -> None:
    """Refuse NaN and infinity, and texts that are too long, anywhere in a record.

    Raises:
        InputError: names the file and the key.
    """
    for key, value in _items(content):
        if key in NUMBERS and (not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise InputError(f"{place}: {key} must be a number, found {_shown(value)}; measure it again")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise InputError(
                f"{place}: {printable(key[:60])} has {len(value):,} characters, the limit is {LONGEST_TEXT:,}; "
                "measure it again"
            )


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of everything in a nest; the items of a list have the list's key."""
    left = [("", content)]
    while left:
        key, value = left.pop()
        yield key, value
        if isinstance(value, dict):
            left += [(str(name), part) for name, part in value.items()]
        elif isinstance(value, list):
            left += [("" if key in NUMBERS else key, part) for part in value]


def _shown(value: Any) -> str:
    return printable(repr(value)[:60])


@contextmanager
def made_of(run: Path) -> Iterator[None]:
    """Turns errors of making tables or figures from a run's files into one line.

    Raises:
        InputError: a file holds something else than this project writes.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{run}: the content of one of its files does not fit any table or figure ({reason(error)}): measure again "
            "what was changed; UNCLIP_DEBUG=1 shows where it stands"
        ) from error
