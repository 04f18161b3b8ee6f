"""`unclip data export`: real pictures as a sample folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.faults import Fault
from datamodules.pictures.module import PictureDataModule
from datamodules.rendered.pairs import PairDataModule
from eval.errors import InputError as EvalInputError
from eval.samples.folder import MANIFEST, SampleFolder, write_samples
from eval.words import counted
from experiments.console.progress import progress
from experiments.data.sources import load_data
from experiments.storage.provenance import commit, config_hash
from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip data export`; returns the exit code."""
    data, section = load_data(options.config, PairDataModule, embeddings=None)
    folder = export(
        data,
        section,
        options.out,
        split=options.split,
        captions=options.captions,
        per_caption=options.per_caption,
        size=options.size,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    print(f"{folder}: {counted(options.captions, 'caption')}, {counted(options.per_caption, 'real image')} each")
    return 0


def export(
    data: PairDataModule,
    section: dict[str, Any],
    out: str | Path,
    split: str = "test",
    captions: int = 256,
    per_caption: int = 1,
    size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes the pictures of the first captions of a split, with what is known to be true of them.

    Args:
        data: where the pairs come from.
        section: its configuration, for the hash in the manifest.
        out: the sample folder; there completely or not at all.
        split: "train", "val" or "test".
        captions: number of captions; caption k is that of pair k.
        per_caption: pictures a caption: the pair's own, and others that the same caption describes.
        size: side in pixels; the data's own when None.
        seed: of the other pictures.
        overwrite: replace a sample folder that is there.

    Returns:
        The folder. If these very records are there (the command was killed in its last moment), nothing is done.

    Raises:
        InputError: more captions than pairs, several pictures of data that hold one a caption, a folder in the way.
    """
    size = data.image_size if size is None else size
    _check(data, split, captions, per_caption, size)
    shared: dict[str, Any] = {
        "condition": "real",
        "guidance": {},
        "sampler": {},
        "steps": {},
        "split": split,
        "config_hash": config_hash({"data": section, "size": size}),
        "commit": commit(),
    }
    if data.attribution:
        shared["attribution"] = data.attribution
    texts = data.captions(split)
    places = [(index, sample) for index in readable(data, split, captions, size) for sample in range(per_caption)]
    # A seed of its own for every picture, none for the pair's own, which has no other.
    seeds = [(seed * 1_000_000 + index) * 1_000 + sample if sample else None for index, sample in places]
    records = [
        {"caption": texts[index], "caption_index": index, "sample_index": sample, "seed": own, **shared}
        for (index, sample), own in zip(places, seeds, strict=True)
    ]

    if not overwrite and _is_there(Path(out), records):
        return Path(out).absolute()

    def pictures() -> Iterator[Image.Image]:
        """One at a time, for they may be many; what is true of a picture is known when it is there."""
        for k in progress(range(len(places)), f"exporting {split}"):
            pixels, truth = data.real(split, *places[k], size, seeds[k] or 0)
            records[k].update(truth)
            yield Image.fromarray(pixels)

    return write_samples(out, pictures(), records, overwrite).path


def readable(data: PairDataModule, split: str, count: int, size: int) -> list[int]:
    """The first pairs of a split whose pictures can be read; of pictures that are rendered, the first.

    A picture that cannot be read is passed over and named, as in training, unless `faults.on_error` is refuse.

    Raises:
        InputError: the pairs do not hold as many readable ones; or the fault policy refuses a picture.
    """
    if not isinstance(data, PictureDataModule):
        return list(range(count))
    dataset, log, found = data.dataset(split), data.log(split), []
    for index in range(data.size(split)):
        try:
            dataset.plain(index, size)
        except InputError as error:
            kind, detail = getattr(error, "kind", "a picture that cannot be read"), getattr(error, "detail", "")
            log.add(Fault(dataset.pairs.reader.name(index), kind, detail))
            continue
        found.append(index)
        if len(found) == count:
            return found
    raise InputError(
        f"--captions {count}, but only {len(found)} pairs of the {split} split have a picture that can be read: ask "
        "for fewer, or see `unclip data check`"
    )


def _is_there(out: Path, records: list[dict[str, Any]]) -> bool:
    """Whether the folder holds what is about to be written; a folder that was moved into place is whole."""
    if not (out / MANIFEST).is_file():
        return False
    try:
        there = SampleFolder.open(out).records
    except EvalInputError:
        return False
    return len(there) == len(records) and all(
        found.get(key, None) == value
        for found, record in zip(there, records, strict=True)
        for key, value in record.items()
    )


def _check(data: PairDataModule, split: str, captions: int, per_caption: int, size: int) -> None:
    for name, value in {"--captions": captions, "--per-caption": per_caption, "--size": size}.items():
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    if per_caption > 1_000:
        raise InputError(f"--per-caption can be 1,000 at most, got {per_caption}")
    if captions > data.size(split):
        raise InputError(f"--captions {captions}, but the {split} split holds {data.size(split)} pairs")
