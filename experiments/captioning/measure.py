"""`unclip caption-report`: the captions of a data set measured by source, and against the truth where it is known."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.captions import GROUND_TRUTH
from datamodules.rendered.pairs import PairDataModule
from datamodules.rendered.reading import read
from datamodules.shapes import ShapesDataModule
from eval.captions.compare import compare
from eval.captions.report import Measured, measured, tables
from experiments.console.show import show
from experiments.data.sources import open_data
from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip caption-report`; returns the exit code."""
    from eval.files import write_file

    data, _ = open_data(options, PairDataModule, embeddings=None)
    columns = captions_by_source(data, options.split)
    count = data.size(options.split) if options.limit is None else min(options.limit, data.size(options.split))
    found = [measure(data, options.split, source, texts[:count]) for source, texts in columns.items()]
    made = tables(found)
    numbers = {"split": options.split, "sources": [one.as_json() for one in found]}
    write_file(options.out / "report.json", json.dumps(numbers, indent=1) + "\n")
    write_file(options.out / "report.md", "\n".join(table.markdown() for table in made.values()))
    show_samples(data, options.split, columns, options.out, min(options.shown, count))
    for table in made.values():
        show(table)
    print(f"{options.out}: report.json, report.md, and captions in TensorBoard")
    return 0


def captions_by_source(data: PairDataModule, split: str) -> dict[str, list[str]]:
    """Source -> the first caption of every pair, "" where a pair has none of it."""
    captioned = data.captioned(split)
    if captioned is None:
        return {GROUND_TRUTH: data.captions(split)}
    table, found = captioned.table, {name: [""] * len(captioned) for name in captioned.table.names}
    for pair in range(len(captioned)):
        start, end = captioned.span(pair)
        for offset, number in reversed(list(enumerate(table.sources(start, end).tolist()))):
            found[table.names[number]][pair] = table.texts[start + offset]
    return found


def measure(data: PairDataModule, split: str, source: str, texts: Sequence[str]) -> Measured:
    """The captions of a source; against the truth where the data are shapes.

    Raises:
        InputError: the source has no captions.
    """
    if not any(texts):
        raise InputError(f"the {split} split has no captions of the source {source}")
    if not isinstance(data, ShapesDataModule):
        return measured(source, [text for text in texts if text])
    claims = [read(text) for text in texts]
    truths = [data.truth(split, index) for index in range(len(texts))]
    outcomes = [compare(claim.said, truth) for claim, truth in zip(claims, truths, strict=True)]
    return measured(source, texts, outcomes, [claim.unrelated for claim in claims])


def show_samples(data: PairDataModule, split: str, columns: Mapping[str, Sequence[str]], out: Path, count: int) -> None:
    """The first pairs' pictures with all their captions, as TensorBoard's images and text."""
    from torch.utils.tensorboard import SummaryWriter

    for old in out.glob("events.out.tfevents.*"):
        old.unlink()
    side = getattr(data, "image_size", 64)
    pictures = np.stack([data.renderer(split, side)(index) for index in range(count)])
    with SummaryWriter(str(out)) as writer:
        writer.add_images(f"{split}/pictures", pictures, dataformats="NHWC")
        for index in range(count):
            rows = "\n".join(f"| {source} | {texts[index]} |" for source, texts in columns.items())
            writer.add_text(f"{split}/captions", f"| source | caption |\n| --- | --- |\n{rows}", index)
