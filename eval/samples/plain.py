"""A folder of pictures as anybody has one: any formats, any sizes, subfolders, captions in several places or none."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.samples import geneval
from eval.samples.captions import WAYS, by_table, by_texts, find_table
from eval.samples.folder import MANIFEST, SampleFolder
from eval.samples.pictures import SUFFIXES, picture_size
from eval.untrusted import MAX_PICTURE, open_regular, parse_json, read_bytes, within

THREADS = 8
OF_CAPTION = ("mentioned", "sign", "shown", "held_out", "byte_pairs")
"""The keys of a manifest that belong to a caption, whichever model draws pictures for it."""


def open_folder(path: str | Path, captions: str | Path | None = None, wanted: bool = True) -> SampleFolder:
    """Opens a sample folder of ours, or any other folder of pictures.

    Args:
        path: the folder. With a manifest.jsonl of `unclip sample` or `unclip data export` it is opened strictly
            (`SampleFolder.open`); any other is read by `read_plain`.
        captions: a table of captions, for folders without such a manifest.
        wanted: whether captions are of use; real images are compared without them.

    Raises:
        InputError: no folder; or see both.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} {'is no folder' if path.exists() else 'does not exist'}: name a folder of pictures")
    if captions is None and _is_ours(path / MANIFEST):
        return SampleFolder.open(path)
    return read_plain(path, None if captions is None else Path(captions), wanted)


def _is_ours(manifest: Path) -> bool:
    """Whether a manifest numbers its captions, as ours do; a damaged one counts as ours, and is refused there."""
    if not manifest.is_file():
        return False
    try:
        with open_regular(manifest) as file:
            first = parse_json(file.readline(2**20), str(manifest))
    except (OSError, InputError):
        return True
    return not isinstance(first, dict) or "caption_index" in first


def read_plain(folder: Path, table: Path | None = None, wanted: bool = True) -> SampleFolder:
    """Any folder of pictures: all picture files in it and below it, by name.

    Captions come from `table`, else GenEval's folders, else a table in the folder (`find_table`) that has a column of
    them, else text files; or there are none. Its condition is the folder's name. Pictures of several sizes are told
    apart by `sizes_of`.

    Args:
        folder: of the pictures.
        table: of captions.
        wanted: refuse captions that are damaged or of some pictures only; otherwise the folder then has none.

    Raises:
        InputError: no pictures, one that is damaged, or captions that are.
    """
    layout = None if table else geneval.read_layout(folder)
    pictures = list(layout) if layout else picture_names(folder)
    if not pictures:
        raise InputError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    texts = {name: str(found["prompt"]) for name, found in layout.items()} if layout else None
    if texts is None:
        texts = _texts(folder, pictures, table, wanted)
    with ThreadPoolExecutor(THREADS) as pool:
        seen = list(pool.map(lambda name: _looked_at(within(folder, folder / name)), pictures))
    records = _numbered(pictures, texts, folder.resolve().name)
    for record, (sha256, size) in zip(records, seen, strict=True):
        record |= {"sha256": sha256, "size": list(size)}
    if layout:
        for record in records:
            record[geneval.KEY] = layout[record["file"]]
    return SampleFolder(folder, records, seen[0][1], captioned=bool(texts))


def _texts(folder: Path, pictures: Sequence[str], table: Path | None, wanted: bool) -> dict[str, str]:
    """Picture -> caption, of all pictures or of none."""
    try:
        found = by_table(table, pictures) if table else {}
        place = None if table else find_table(folder)
        found = found or (by_table(place, pictures, required=False) if place else {}) or by_texts(folder, pictures)
        absent = [name for name in pictures if name not in found]
        if found and absent:
            raise InputError(
                f"{folder}: {len(absent)} of {len(pictures)} pictures have no caption ({absent[0]}): {WAYS}"
            )
    except InputError:
        if wanted:
            raise
        return {}
    return found


def _looked_at(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        content = read_bytes(path, MAX_PICTURE)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return hashlib.sha256(content).hexdigest(), picture_size(content, path)


def picture_names(folder: Path) -> list[str]:
    """Names of the picture files in a folder and its subfolders, relative, with slashes; 2.png before 10.png."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder)
        found += [
            (inside / name).as_posix() for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _numbered(pictures: Sequence[str], texts: Mapping[str, str], condition: str) -> list[dict[str, Any]]:
    """Manifest lines: pictures of one caption are its samples; without captions every picture stands alone."""
    index = {text: k for k, text in enumerate(dict.fromkeys(texts[name] for name in pictures))} if texts else {}
    seen: Counter[int] = Counter()
    records = []
    for position, name in enumerate(pictures):
        number = index[texts[name]] if texts else position
        records.append(
            {
                "file": name,
                "caption": texts[name] if texts else "",
                "caption_index": number,
                "sample_index": seen[number],
                "condition": condition,
            }
        )
        seen[number] += 1
    return records


def sizes_of(folder: SampleFolder) -> Counter[tuple[int, int]]:
    """How many pictures there are of each (height, width), as they are on the disk."""
    return Counter(tuple(record.get("size") or folder.size) for record in folder.records)


def at_one_size(folders: Sequence[SampleFolder], size: int | None) -> list[SampleFolder]:
    """The folders, with pictures of one size.

    Args:
        folders: samples and real images.
        size: side that every picture is brought to by `eval.samples.pictures.fitted`; None leaves all as they are.

    Raises:
        InputError: without `size`, a folder holds pictures of several sizes.
    """
    if size is not None:
        return [folder.fitted(size) for folder in folders]
    for folder in folders:
        sizes = sizes_of(folder)
        if len(sizes) > 1:
            (first, second), side = list(sizes)[:2], min(min(s) for s in sizes)
            raise InputError(
                f"{folder.path} holds pictures of {len(sizes)} sizes, as {first[1]}x{first[0]} and"
                f" {second[1]}x{second[0]} pixels: give one size for all of them, as in --size {side} (pictures are"
                " resized to this short side, antialiased, and the centre is kept)"
            )
    return list(folders)


def numbered_like(folder: SampleFolder, other: SampleFolder) -> SampleFolder:
    """A folder whose captions have the numbers, and the ground truth, that they have in another folder.

    So pictures of another model stand beside ours that were drawn for the same captions. Where the other has a caption
    under several numbers, each number gets as many pictures as it has there, and the last one the rest. A folder with a
    caption that the other does not have is returned as it is.
    """
    known: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(other.records, key=lambda record: (record["caption_index"], record["sample_index"])):
        known.setdefault(record["caption"], []).append(record)
    if not folder.captioned or any(record["caption"] not in known for record in folder.records):
        return folder
    records, taken, samples = [], Counter[str](), Counter[int]()
    for record in folder.records:
        places = known[record["caption"]]
        like = places[min(taken[record["caption"]], len(places) - 1)]
        index = like["caption_index"]
        copied = {key: like[key] for key in OF_CAPTION if key in like}
        records.append({**record, **copied, "caption_index": index, "sample_index": samples[index]})
        taken[record["caption"]] += 1
        samples[index] += 1
    records.sort(key=lambda record: (record["caption_index"], record["sample_index"]))
    return replace(folder, records=records)


def is_plain(folder: SampleFolder) -> bool:
    """Whether a folder was read by `read_plain`."""
    return all("size" in record for record in folder.records)
