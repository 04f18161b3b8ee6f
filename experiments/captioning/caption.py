"""`unclip caption`: captions for the pictures of a data set, written once, read by its data module as a further column.

A predict run of Lightning's: shards that are there are kept, and several devices share out the others.
"""

from __future__ import annotations

import argparse
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_only

from datamodules.captioned.folder import CaptionsInfo
from datamodules.captioned.writer import CaptionsWriter, Written
from datamodules.rendered.pairs import PairDataModule
from experiments.captioning.captioners import CaptionWriter, open_captioner
from experiments.console.devices import find_device, trainer_device
from experiments.console.quiet import quiet
from experiments.data.sources import open_data
from experiments.embeddings.embedding_run import Work, write_split
from modules.batches import ImageTextBatch


def run(options: argparse.Namespace) -> int:
    """Run `unclip caption`; returns the exit code."""
    trainer = trainer_device(find_device(options.device))
    if options.devices > 1:
        trainer["devices"] = options.devices
    trainer |= {"num_nodes": options.num_nodes, "strategy": options.strategy, "precision": options.precision}
    override: dict[str, Any] = {"embeddings": None}
    if options.num_workers is not None:
        override["num_workers"] = options.num_workers
    data, _ = open_data(options, PairDataModule, **override)
    captioner = open_captioner(options.captioner, options.clip, options.temperature, options.seed)
    write_captions(
        data, captioner, options.out, options.splits, options.batch_size, options.shard_rows, trainer, options.overwrite
    )
    return 0


class Captioning(LightningModule):
    """A captioner as something that Lightning predicts with.

    Args:
        captioner: it writes.
    """

    def __init__(self, captioner: CaptionWriter) -> None:
        super().__init__()
        self.captioner = captioner
        self.allow_zero_length_dataloader_with_multiple_devices = True  # A process may have no shard left to make.

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> Written:
        index: list[int] = batch.index.tolist()
        return Written(self.captioner.describe(batch.images, index), index)


def write_captions(
    data: PairDataModule,
    captioner: CaptionWriter,
    out: str,
    splits: list[str],
    batch_size: int,
    shard_rows: int,
    trainer: dict[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a caption for every picture; splits and shards that are there already are kept.

    Args:
        data: the pairs.
        captioner: what writes.
        out: the folder (see `datamodules.captioned.folder`).
        splits: which to caption.
        batch_size: pictures at once.
        shard_rows: captions of a file, which is what an interruption costs each process at most.
        trainer: settings of Lightning's Trainer: accelerator, devices, strategy, ...
        overwrite: replace captions of another captioner, of other settings or of other pairs.

    Raises:
        InputError: the folder holds such captions and `overwrite` is off; too many pairs that cannot be read.
    """
    quiet()
    settings = {"image_size": getattr(data, "image_size", None), "precision": str(trainer.get("precision", "32-true"))}
    writer = CaptionsWriter(out, CaptionsInfo(captioner.identity, settings=settings), overwrite)
    module = Captioning(captioner)
    for split in splits:
        size, pictures = data.size(split), data.pictures_hash(split)
        if writer.holds(split, size, pictures):
            _say(f"{split}: {size} captions are there")
            continue
        work = Work(data, writer, writer.split(split, size, pictures, shard_rows), batch_size, "captioning")
        write_split(module, work, trainer)
        _say(f"{split}: {size} captions written to {out}")


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
