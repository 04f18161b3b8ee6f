"""`unclip data check`: the contents of a data set and its faults, before a training meets them."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.base import SplitDataModule
from datamodules.faults import Fault, FaultPolicy
from datamodules.pictures.module import NoPairs
from datamodules.rendered.pairs import PairDataModule
from datamodules.transforms import to_uint8
from experiments.console.progress import Progress, progress
from experiments.data.split_report import SHOWN, SplitReport
from modules.batches import ImageTextBatch
from modules.errors import InputError
from modules.untrusted.reading import printable


def check_split(
    data: SplitDataModule,
    split: str,
    limit: int | None = None,
    tokenize: Callable[[list[str]], Any] | None = None,
    context: int | None = None,
    batch_size: int = 64,
) -> SplitReport:
    """Read a split once, picture by picture, and note what there is.

    Args:
        data: any DataModule of pairs.
        split: "train", "val" or "test".
        limit: look at so many pairs, spread over the split; None for all.
        tokenize: captions -> (B, L), 0 for padding; refuses or cuts what is too long.
        context: tokens of a caption (words, without `tokenize`) that fit; None does not count.
        batch_size: pairs at once.

    Raises:
        InputError: the data hold no pictures, or can't be listed.
    """
    if hasattr(data, "faults"):
        data.faults = FaultPolicy("skip", 1e15)  # Everything is to be told, and nothing to stop.
    report = SplitReport(split, data.size(split), context=context, captions=data.captions(split))
    report.words = [len(caption.split()) for caption in report.captions]
    if tokenize is not None:
        report.tokens = list(_token_counts(report.captions, tokenize))
    dataset: Any = data.dataset(split)
    count = report.pairs if limit is None else min(limit, report.pairs)
    rows = [k * report.pairs // count for k in range(count)]
    shown = {rows[k * count // min(SHOWN, count)] for k in range(min(SHOWN, count))}
    bar: Progress[None] = progress(count, f"checking {split}")
    with bar:
        for first in range(0, count, batch_size):
            chunk = rows[first : first + batch_size]
            _look_at(report, dataset, chunk, shown)
            bar.advance(len(chunk))
    listed = data.log(split).found.values() if hasattr(data, "log") else []
    report.faults = list({(fault.place, fault.kind): fault for fault in [*listed, *report.faults]}.values())
    return report


def _look_at(report: SplitReport, dataset: Any, rows: list[int], shown: set[int]) -> None:
    started = time.perf_counter()
    batch, faults = _load(dataset, rows)
    report.seconds += time.perf_counter() - started
    report.looked_at += len(rows)
    report.faults += faults
    reader = getattr(getattr(dataset, "pairs", None), "reader", None)
    if batch is None:
        return
    pixels = batch.images.permute(0, 2, 3, 1).numpy() if batch.images.dtype.itemsize == 1 else to_uint8(batch.images)
    report.side = pixels.shape[1]
    for row, index, picture, caption in zip(rows, batch.index.tolist(), pixels, batch.captions, strict=True):
        if row != index:  # Another pair in the place of one that cannot be read.
            continue
        content = picture.tobytes() if reader is None else reader.read(index)
        size = None if reader is None else _size(content)
        if size is not None:
            report.files.append(size)
        digest = hashlib.sha256(content).digest()[:16]
        report.digests.setdefault(digest, []).append(index)
        if row in shown:
            report.sheet.append((index, caption, Image.fromarray(picture)))


def _load(dataset: Any, rows: list[int]) -> tuple[ImageTextBatch | None, list[Fault]]:
    """A batch as the training would get it, and what was wrong with its files."""
    if hasattr(dataset, "load"):
        return dataset.load(rows)
    batch = dataset.__getitems__(rows)
    if not isinstance(batch, ImageTextBatch):
        raise InputError("the data hold no pictures: check the data that they were made from")
    return batch, []


def _size(content: bytes) -> tuple[int, int] | None:
    """(width, height) from a file's header."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _token_counts(captions: Sequence[str], tokenize: Callable[[list[str]], Any]) -> Iterator[int]:
    """Tokens of each caption, those that are left over by the context as one more than it holds."""
    for caption in captions:
        try:
            row = tokenize([caption])[0]
        except InputError:  # Our own tokeniser refuses what does not fit.
            yield len(caption.split()) + 1
            continue
        used = int((row != 0).sum())
        # One that cuts leaves no padding, and does not see the caption's last letter.
        cut = used == len(row) and bool((tokenize([caption.rstrip()[:-1]])[0] == row).all())
        yield used + int(cut)


def run(options: argparse.Namespace) -> int:
    """Runs `unclip data check ...`."""
    from experiments.data.check_page import summary, write_page
    from experiments.data.sources import open_data, shown

    for name in ("limit", "context"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name} must be 1 or more, got {getattr(options, name)}")
    tokenize, context = None, options.context
    if options.clip:
        from modules.clip.frozen import load_tokenizer

        tokenize = load_tokenizer(options.clip)
        context = context or tokenize(["a"]).shape[1]
    with faults_on_the_page():
        data, section = open_data(options, PairDataModule, embeddings=None)
        reports, lines = [], []
        for split in options.splits:
            try:
                reports.append(check_split(data, split, options.limit, tokenize, context))
            except NoPairs as error:
                reports.append(SplitReport(split, 0, faults=list(error.faults)))
                lines.append(str(error))
    print("\n".join(printable(line) for line in summary(reports).split("\n")))
    print(f"page: {write_page(Path(options.out), reports, shown(options, section), data.attribution)}")
    if lines:
        raise InputError(lines[0])
    return 0


@contextlib.contextmanager
def faults_on_the_page() -> Iterator[None]:
    """No lines about each fault on stderr: the page tells."""
    logger = logging.getLogger("datamodules.faults")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
