"""Compares files and folders by their numbers: pictures, tensors, JSON, tables and curves."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.trials.same_numbers.found import Found
from benchmarks.trials.same_numbers.same_tensors import compare_tensors, read_tensors

OF_THE_RUN = (
    *("seconds", "started", "finished", "created", "date", "time", "commit", "version", "versions", "host", "machine"),
    *("command", "words", "settings", "config_hash", "code", "sha256", "source"),
    "key",  # of a sweep's point: it hashes manifests, which name the commit
)
"""Keys in JSON that tell of the run, of its files and of the code, not of what was computed."""
NOT_COMPARED = (
    *("hparams.yaml", "config.yaml", "README.md", "stage.json", "started.json", "progress.json"),
    *("output.txt", "log.txt"),
)
"""Files that tell of a run, by name."""
TENSORS = (".safetensors", ".ckpt", ".pt", ".npy", ".npz", ".png")
TEXTS = (".json", ".jsonl", ".md", ".csv", ".tex", ".txt")
NUMBER = re.compile(r"[-+\u2212]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
CLOCK = re.compile(r"\b\d+(?::\d\d)+\b")
"""How long something took."""


def compare_folders(before: Path, after: Path) -> Found:
    """Compare all files of two folders, or two files, whose kind is known.

    Returns:
        What was found; a name in it begins with the file's path in the folder.
    """
    if before.is_file() and after.is_file():
        return compare_files(before, after)
    found = Found("values")
    ours, theirs = files(before), files(after)
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            found.differs(name, "file missing now")
        elif name not in ours:
            found.notes.append(f"{name} (file not there before)")
        else:
            found.add(compare_files(ours[name], theirs[name]), f"{name}: ")
    return found


def files(folder: Path) -> dict[str, Path]:
    """Relative path -> file, for each file below a folder that is to be compared. Hidden folders are left out."""
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path
        for name, path in names.items()
        if path.suffix in (*TENSORS, *TEXTS)
        and path.name not in NOT_COMPARED
        and not any(part.startswith(".") for part in name.split("/"))
    }


def compare_files(before: Path, after: Path) -> Found:
    """Compare two files by their kind."""
    suffix = before.suffix
    if suffix in TENSORS:
        found = compare_tensors(read_tensors(before), read_tensors(after))
        found.kind = "pictures" if suffix == ".png" else "tensors"
        return found
    readers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".jsonl": lambda text: [json.loads(line) for line in text.splitlines() if line.strip()],
        ".csv": lambda text: list(csv.DictReader(text.splitlines())),
        ".txt": str.splitlines,
    }
    read = readers.get(suffix, table_rows)
    return compare_numbers(*(read(path.read_text(encoding="utf-8")) for path in (before, after)))


def table_rows(text: str) -> list[str]:
    """The rows of the tables in a Markdown or LaTeX text; what stands between the tables is prose."""
    return [line for line in text.splitlines() if line.lstrip().startswith("|") or "&" in line]


def compare_numbers(before: Any, after: Any) -> Found:
    """Compare the numbers in two nests of JSON, exactly; numbers within texts count too.

    Keys in `OF_THE_RUN` are left out. Keys and words that are new are noted, and are no difference.
    """
    found = Found("numbers")
    compare_nests(found, "", before, after)
    return found


def compare_nests(found: Found, name: str, before: Any, after: Any) -> None:
    """`compare_numbers` for a part of the nest, of this name."""
    if isinstance(before, dict) and isinstance(after, dict):
        name = f"{name}." if name else ""
        for key in before:
            if key in OF_THE_RUN:
                continue
            if key in after:
                compare_nests(found, f"{name}{key}", before[key], after[key])
            else:
                found.differs(f"{name}{key}", "missing now")
        found.notes += [f"{name}{key} (new)" for key in after if key not in before]
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            found.differs(name, f"{len(before)} entries before, {len(after)} now")
        for number, (a, b) in enumerate(zip(before, after, strict=False)):
            compare_nests(found, f"{name}[{number}]", a, b)
    else:
        compare_values(found, name, before, after)


def compare_values(found: Found, name: str, before: Any, after: Any) -> None:
    """Compare two values that are neither lists nor mappings."""
    found.compared += 1
    if isinstance(before, str) and isinstance(after, str):
        compare_words(found, name, before, after)
    elif type(before) is not type(after) and not both_numbers(before, after):
        found.differs(name, f"{before!r} before, {after!r} now")
    elif before != after and not (before != before and after != after):
        size = abs(before - after) if both_numbers(before, after) else math.nan
        found.differs(name, f"{before!r} before, {after!r} now", size)


def both_numbers(before: Any, after: Any) -> bool:
    """Whether both are numbers, and neither is a truth value."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (before, after))


def compare_words(found: Found, name: str, before: str, after: str) -> None:
    """Compare the numbers in two texts; other words are noted only."""
    ours, theirs = (list(numbers_in(text)) for text in (before, after))
    if ours != theirs:
        found.differs(name, f"{before!r} before, {after!r} now", largest_difference(ours, theirs))
    elif CLOCK.sub("", before) != CLOCK.sub("", after):
        found.notes.append(f"{name} (words: {before!r} before, {after!r} now)")


def numbers_in(text: str) -> Iterator[float]:
    """The numbers in a text, without times of the form 1:23:45."""
    for match in NUMBER.finditer(CLOCK.sub(" ", text)):
        yield float(match[0].replace(",", "").replace("\u2212", "-"))


def largest_difference(before: Sequence[float], after: Sequence[float]) -> float:
    """The largest absolute difference of two lists of numbers; infinite if they have different lengths."""
    if len(before) != len(after):
        return math.inf
    return max(abs(a - b) for a, b in zip(before, after, strict=True))
