"""How numbers were made, as an object and as YAML; numbers of different protocols never stand in one table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.errors import InputError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CaptionProtocol:
    """Which captions and real images a text-to-image model is evaluated on.

    Attributes:
        name: of the protocol, for tables.
        captions: how many are drawn, without replacement, from all captions of the data.
        per_caption: samples of each.
        size: side of samples and real images: short side to it, antialiased, then the centre.
        seed: of the draw.
        exclude: images left out (the "filtered" variant): a file of image numbers or file names, one a line.
        reference: "all" real images, or only "drawn" ones, whose captions are used.
    """

    name: str
    captions: int
    per_caption: int = 1
    size: int = 256
    seed: int = 0
    exclude: str | None = None
    reference: str = "all"

    def __post_init__(self) -> None:
        for key in ("captions", "per_caption", "size"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"protocol {self.name}: {key} must be 1 or more, found {value!r}")
        if self.reference not in ("all", "drawn"):
            raise InputError(f"protocol {self.name}: reference is 'all' or 'drawn', found {self.reference!r}")

    @classmethod
    def load(cls, path: str | Path) -> CaptionProtocol:
        """Reads a YAML with these keys.

        Raises:
            InputError: unreadable, or a key that is unknown, missing or wrong; the message names it.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"cannot read the protocol {path} ({' '.join(str(error).split())})") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or not {"name", "captions"} <= set(content):
            raise InputError(f"{path} is no protocol: it needs name and captions")
        unknown = sorted(set(content) - known)
        if unknown:
            raise InputError(f"{path}: unknown key {unknown[0]!r} (keys: {', '.join(sorted(known))})")
        return cls(**content)

    @property
    def digest(self) -> str:
        """8 hexadecimal digits that identify it."""
        return digest(dataclasses.asdict(self))


def digest(protocol: Mapping[str, Any]) -> str:
    """8 hexadecimal digits that identify a protocol, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(dict(protocol), sort_keys=True, default=str).encode()).hexdigest()[:8]


def _essence(key: str, value: Any) -> Any:
    """What has to agree: of a CLIP its weights' hash, wherever they lie and whatever the folder is called."""
    return value.split()[-1] if key == "clip" and value else value


def check_protocols(rows: Sequence[Row], ignore: Sequence[str] = ()) -> dict[str, Any]:
    """The protocol that all rows share.

    Args:
        rows: each with "condition" and "protocol".
        ignore: keys that may differ.

    Raises:
        InputError: two rows were measured in different ways; the message names the rows and the difference.
    """
    first = rows[0]
    for row in rows:
        for key in {**first["protocol"], **row["protocol"]}:
            ours, theirs = first["protocol"].get(key), row["protocol"].get(key)
            if _essence(key, ours) != _essence(key, theirs) and key not in ignore:
                raise InputError(
                    f"{first['condition']} was measured with {key} = {ours!r} and {row['condition']} with {theirs!r}:"
                    " these cannot stand in one table; run `unclip evaluate` on both together"
                )
    return dict(first["protocol"])
