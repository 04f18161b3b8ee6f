"""How numbers were made, as an object and as YAML; numbers of different protocols never stand in one table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.errors import InputError
from eval.untrusted import read_json, read_yaml, reason

Row = Mapping[str, Any]
PROTOCOL_FILE = "protocol.json"  # beside captions and real images that were exported by a protocol


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
            content = read_yaml(Path(path))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"cannot read the protocol {path} ({' '.join(str(error).split())})") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or not {"name", "captions"} <= set(content):
            raise InputError(f"{path} is no protocol: it needs name and captions")
        unknown = sorted(set(content) - known)
        if unknown:
            raise InputError(f"{path}: unknown key {unknown[0]!r} (keys: {', '.join(sorted(known))})")
        return cls(**content)

    def digest(self, left_out: Iterable[int] = ()) -> str:
        """8 hexadecimal digits that identify it, with the images that `exclude` lists, by number, wherever it lies."""
        listed = None if self.exclude is None else sorted(left_out)
        return digest({**dataclasses.asdict(self), "exclude": listed})


def digest(protocol: Mapping[str, Any]) -> str:
    """8 hexadecimal digits that identify a protocol, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(dict(protocol), sort_keys=True, default=str).encode()).hexdigest()[:8]


def captions_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """12 hexadecimal digits that identify the captions of samples, by number, and how many samples each has.

    Args:
        records: manifest lines, one for each sample, in any order.
    """
    counts = Counter((int(record["caption_index"]), str(record["caption"])) for record in records)
    content = sorted([index, caption, n] for (index, caption), n in counts.items())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def exported_protocol(records: Iterable[Mapping[str, Any]], reference: Path) -> tuple[str | None, list[str]]:
    """The protocol, exported by `unclip coco`, by which samples are measured.

    Args:
        records: manifest lines of the samples.
        reference: the folder of the real images, beside which the protocol lies.

    Returns:
        Name and digest, or None where the reference is of no such protocol or the samples' captions are not those that
        it drew; then also what to say of that (`require_protocol` refuses it).

    Raises:
        InputError: the file is damaged.
    """
    path = reference.absolute().parent / PROTOCOL_FILE
    try:
        content = read_json(path)
        named = f"{content['name']} {content['digest']}"
    except (FileNotFoundError, NotADirectoryError):
        return None, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read the protocol of the reference, {path} ({reason(error)}); export it again"
        ) from error
    if content.get("captions_digest") in (None, captions_digest(records)):
        return named, []
    return None, [
        f"The samples are not one of each caption that the protocol {named} of the reference drew: these are not its"
        " numbers."
    ]


def require_protocol(records: Iterable[Mapping[str, Any]], samples: Path, reference: Path) -> None:
    """Refuse samples whose captions are not those of the reference's protocol.

    Raises:
        InputError: they are; or the protocol's file is damaged.
    """
    _, said = exported_protocol(records, reference)
    if said:
        raise InputError(
            f"{samples}: {said[0]} Sample the captions.jsonl beside {reference}, or say --other-captions to measure"
            " these"
        )


def _essence(key: str, value: Any) -> Any:
    """What has to agree: of a CLIP or a probe its hash, wherever it lies and whatever its folder is called."""
    return value.split()[-1] if key in ("clip", "aesthetic", "preference") and value else value


EVALUATE = "run `unclip evaluate` on both together"


def check_protocols(rows: Sequence[Row], ignore: Sequence[str] = (), way_out: str = EVALUATE) -> dict[str, Any]:
    """The protocol that all rows share.

    Args:
        rows: each with "condition" and "protocol".
        ignore: keys that may differ.
        way_out: what to do about rows that differ.

    Raises:
        InputError: two rows were measured in different ways; the message names the rows and the difference, and says
            so where one of them is of an older release, which recorded less.
    """
    first = rows[0]
    for row in rows:
        for key in {**first["protocol"], **row["protocol"]}:
            ours, theirs = first["protocol"].get(key), row["protocol"].get(key)
            if _essence(key, ours) != _essence(key, theirs) and key not in ignore:
                silent = next((r["condition"] for r in (first, row) if key not in r["protocol"]), None)
                older = f" (the numbers of {silent} are of another release, which does not record it)"
                raise InputError(
                    f"{first['condition']} was measured with {key} = {ours!r} and {row['condition']} with {theirs!r}"
                    f"{older if silent else ''}: these cannot stand in one table; {way_out}"
                )
    return dict(first["protocol"])


def require_keys(place: Path | str, row: Any, keys: Iterable[str], of_protocol: Iterable[str], way_out: str) -> None:
    """Checks that a row of metrics from a file has all keys that tables need.

    Raises:
        InputError: a key is missing, of the row or of its protocol; the message names the file, the key and `way_out`.
    """
    row = row if isinstance(row, Mapping) else {}
    protocol = row.get("protocol")
    missing = [repr(key) for key in keys if key not in row]
    if not isinstance(protocol, Mapping):
        missing.append("'protocol'")
    else:
        missing += [f"{key!r} of its protocol" for key in of_protocol if key not in protocol]
    if missing:
        raise InputError(f"{place} lacks {missing[0]}, without which no table can be made: {way_out}")


ROW_KEYS = ("condition", "n", "frechet", "clip_score", "accuracy", "diversity")


PROTOCOL_KEYS = (
    *("n", "captions", "per_caption", "level", "bootstrap", "extractor", "extractor_dim", "clip", "inception"),
    *("reference", "reference_n", "reference_digest"),
)
"""What a row and its protocol have to hold; rows of older releases hold no more."""
