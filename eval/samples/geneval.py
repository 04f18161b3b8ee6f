"""GenEval's folders: 00000/metadata.jsonl and 00000/samples/0000.png, one folder a prompt (2023, Ghosh et al.)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.errors import InputError
from eval.files import replacing_folder, require_place
from eval.samples.folder import SampleFolder
from eval.samples.pictures import PNG
from eval.untrusted import parse_json, read_bytes, within

KEY = "geneval"
"""The key of a manifest line that holds a prompt's metadata: {"tag", "include", "exclude"?, "prompt"}."""
METADATA, SAMPLES = "metadata.jsonl", "samples"
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six tasks in the order of GenEval's tables."""
POSITIONS = ("left of", "right of", "above", "below")


def check_metadata(content: Any, place: str) -> dict[str, Any]:
    """A prompt's metadata, if it is GenEval's.

    Raises:
        InputError: names the place and what is missing.
    """
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        raise InputError(f"{place} is no metadata of GenEval: it needs a prompt")
    if content.get("tag") not in TASKS:
        raise InputError(f"{place}: the tag is one of {', '.join(TASKS)}, found {content.get('tag')!r}")
    for key in ("include", "exclude"):
        for k, wanted in enumerate(content.get(key, [])):
            _check_wanted(wanted, f"{place}: {key}", k)
    if not content.get("include"):
        raise InputError(f"{place} includes no object")
    return content


def _check_wanted(wanted: Any, place: str, number: int) -> None:
    good = isinstance(wanted, dict) and isinstance(wanted.get("class"), str) and type(wanted.get("count")) is int
    if not good:
        raise InputError(f"{place} lists a class and a count each, found {str(wanted)[:100]}")
    if "position" in wanted:
        where = wanted["position"]
        if not isinstance(where, list) or len(where) != 2 or where[0] not in POSITIONS or where[1] not in range(number):
            raise InputError(f"{place}: a position is one of {', '.join(POSITIONS)} and an earlier object's number")


def read_layout(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Picture -> its prompt's metadata, of a folder in GenEval's layout; None for another folder.

    Raises:
        InputError: a metadata.jsonl is damaged.
    """
    prompts = sorted(p for p in folder.iterdir() if re.fullmatch(r"\d+", p.name) and (p / METADATA).is_file())
    found: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        place = within(folder, prompt / METADATA)
        content = check_metadata(parse_json(read_bytes(place), str(place)), str(place))
        drawn = sorted((prompt / SAMPLES).glob("*.png")) if (prompt / SAMPLES).is_dir() else []
        found |= {path.relative_to(folder).as_posix(): content for path in drawn}
    return found or None


def write_layout(folder: SampleFolder, out: Path) -> int:
    """Writes a sample folder that was drawn for GenEval's prompts in GenEval's layout, for its own program to read.

    Returns:
        The number of prompts.

    Raises:
        InputError: a picture has no metadata of GenEval, or `out` is there already.
    """
    require_free(out)
    by_prompt: dict[int, list[dict[str, Any]]] = {}
    for record in folder.records:
        check_metadata(record.get(KEY), f"{folder.path}: {record['file']}")
        by_prompt.setdefault(record["caption_index"], []).append(record)
    with replacing_folder(out) as partial:
        for index, records in sorted(by_prompt.items()):
            place = partial / f"{index:05d}"
            (place / SAMPLES).mkdir(parents=True)
            (place / METADATA).write_text(json.dumps(records[0][KEY]), encoding="utf-8")
            _write_pictures(folder, records, place / SAMPLES)
    return len(by_prompt)


def require_free(out: Path) -> None:
    """Raises InputError if a folder is there already; call it before pictures are drawn for it."""
    if out.exists():
        raise InputError(f"{out} is there already; choose another folder for GenEval's layout")
    require_place(out)


def _write_pictures(folder: SampleFolder, records: Sequence[dict[str, Any]], place: Path) -> None:
    position = {record["file"]: k for k, record in enumerate(folder.records)}
    for record in sorted(records, key=lambda each: each["sample_index"]):
        k = position[record["file"]]
        pixels = folder.images(k, k + 1)[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / f"{record['sample_index']:04d}.png", **PNG)
