"""Embedding one split as a Lightning predict run: every process makes shards of its own, those that are missing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import SplitDataModule
from datamodules.embeddings.split import Encoded
from datamodules.transforms import normalised
from experiments.console.progress import Progress
from modules.batches import ImageTextBatch
from modules.clip.frozen import caption_features
from modules.errors import InputError


class Encoder(Protocol):
    """What a frozen CLIP offers: token ids (0 = padding), unit-norm embeddings, and the features of every token."""

    @property
    def fingerprint(self) -> str: ...

    def tokenize(self, captions: list[str]) -> Tensor: ...

    def encode_image(self, images: Tensor) -> Tensor: ...

    def encode_text(self, tokens: Tensor) -> Tensor: ...

    def encode_tokens(self, tokens: Tensor) -> Tensor: ...


class Embedder(LightningModule):
    """A frozen CLIP as something that Lightning predicts with.

    Args:
        clip: it embeds.
        token_features: whether the features of every token are wanted.
    """

    def __init__(self, clip: Encoder, token_features: bool = False) -> None:
        super().__init__()
        self.clip, self.token_features = clip, token_features
        # A process may have no shard left to make.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def predict_step(self, batch: ImageTextBatch, batch_idx: int) -> Encoded:
        # Hours of work shall not end at one long caption; a CLIP has been trained with such ones cut, too.
        tokens = getattr(self.clip.tokenize, "cutting", self.clip.tokenize)(batch.captions)
        here = tokens.to(self.device)
        features = caption_features(self.clip, here) if self.token_features else None
        z_i, z_t = self.clip.encode_image(batch.images), self.clip.encode_text(here)
        return Encoded(z_i, z_t, tokens, batch.captions, features, batch.index)


Loaded = tuple[Any, list[Any]]
"""A batch, and what was wrong with the files that it was read from."""


class Batches(Dataset[Loaded]):
    """The pairs of given rows, batch by batch, in that order.

    Args:
        dataset: the pairs. A data set of files also has `load` (reads) and `receive` (counts what could not be read).
        rows: the rows of each batch.
    """

    def __init__(self, dataset: Any, rows: Sequence[range]) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Loaded:
        wanted = list(self.rows[number])
        return self.dataset.load(wanted) if hasattr(self.dataset, "load") else (self.dataset.__getitems__(wanted), [])

    def receive(self, loaded: Loaded) -> ImageTextBatch:
        """In the main process: the batch with float32 images, its faults counted.

        Raises:
            InputError: there are too many faults, or the data hold no pictures.
        """
        batch = self.dataset.receive(*loaded) if hasattr(self.dataset, "receive") else loaded[0]
        if not isinstance(batch, ImageTextBatch):
            raise InputError("the data hold no pictures: embed the data that they were made from")
        return batch if batch.images.is_floating_point() else batch._replace(images=normalised(batch.images))


class PairLoader(DataLoader[Any]):
    """A loader of `Batches`, one at a time, its faults counted where the CLIP is."""

    def __iter__(self) -> Iterator[ImageTextBatch]:  # type: ignore[override]
        for loaded in super().__iter__():
            yield self.dataset.receive(loaded)  # type: ignore[attr-defined]


class Shard(Protocol):
    """A shard while it is written: `close` shows it, `abort` forgets it."""

    def close(self) -> None: ...
    def abort(self) -> None: ...


class Files(Protocol):
    """A split in the making: `datamodules.embeddings.split.SplitFiles`, or captions' files.

    Attributes:
        split: its name.
        ranges: the rows of each shard.
    """

    split: str
    ranges: list[range]

    def prepare(self) -> None: ...
    def missing(self) -> list[int]: ...
    def shard(self, number: int) -> Any: ...
    def append(self, shard: Any, predicted: Any) -> None: ...


class Writer(Protocol):
    """A folder whose splits are shown when they are whole; `path` is the folder."""

    path: Path

    def finish(self, files: Any) -> None: ...


class Work(LightningDataModule):
    """The shards of a split that are missing, shared out among the processes; at the end the split is shown.

    Args:
        data: the pairs.
        writer, files: where what is predicted goes.
        batch_size: pairs at once; batches begin anew with each shard, so that a shard does not depend on who makes it.
        label: what the bar says is done to the split.
    """

    def __init__(
        self, data: SplitDataModule, writer: Writer, files: Files, batch_size: int, label: str = "embedding"
    ) -> None:
        super().__init__()
        self.data, self.writer, self.files, self.batch_size, self.label = data, writer, files, batch_size, label
        self.prepare_data_per_node = False
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.numbers: list[int] = []
        self.batches: Batches

    def prepare_data(self) -> None:
        """Runs in one process, while the others wait."""
        self.files.prepare()

    def predict_dataloader(self) -> PairLoader:
        assert self.trainer is not None
        # Lightning lets the processes wait for each other after this, so all see the same shards missing.
        mine = self.files.missing()[self.trainer.global_rank :: self.trainer.world_size]
        cut = [(number, rows) for number in mine for rows in in_batches(self.files.ranges[number], self.batch_size)]
        self.numbers = [number for number, _ in cut]
        if hasattr(self.data, "log"):
            self.data.log(self.files.split).write_into(self.writer.path, self.trainer.global_rank)
        self.batches = Batches(self.data.dataset(self.files.split), [rows for _, rows in cut])
        # Of items that are batches, for Lightning re-builds a loader with a batch sampler around its own.
        return PairLoader(self.batches, batch_size=None, collate_fn=_as_is, num_workers=self.data.num_workers)

    def teardown(self, stage: str) -> None:
        """Runs at the end, if the run was not interrupted."""
        assert self.trainer is not None
        self.trainer.strategy.barrier("all shards are written")
        if self.trainer.is_global_zero:
            self.writer.finish(self.files)


def in_batches(rows: range, size: int) -> list[range]:
    """Consecutive parts of `size` rows, the last one shorter."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]


class WriteShards(Callback):
    """Writes what is predicted; a shard appears when it is complete. SIGTERM ends the run at once.

    Args:
        work: the device's work; these are its batches.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._open: Shard | None = None
        self._bar: Progress[None] | None = None
        self._launcher: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = sum(len(self.work.files.ranges[number]) for number in dict.fromkeys(self.work.numbers))
        if trainer.is_global_zero:
            self._bar = Progress(f"{self.work.label} {self.work.files.split}", rows)
            self._bar.__enter__()
        self._launcher = trainer.strategy.launcher
        if threading.current_thread() is threading.main_thread():
            # Lightning's own handler only takes note of the signal; at the end it restores what was there before.
            signal.signal(signal.SIGTERM, self._stop)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        number, numbers = self.work.numbers[batch_idx], self.work.numbers
        if self._open is None:
            self._open = self.work.files.shard(number)
        self.work.files.append(self._open, outputs)
        if batch_idx + 1 == len(numbers) or numbers[batch_idx + 1] != number:
            self._open.close()
            self._open = None
        if self._bar:
            self._bar.advance(len(outputs.captions))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_bar()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._open is not None:
            self._open.abort()
            self._open = None
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._launcher is not None:
            self._launcher.kill(signal.Signals(number))
        raise SystemExit(128 + number)


def write_split(module: LightningModule, work: Work, settings: dict[str, Any]) -> None:
    """Make a split's missing shards.

    Args:
        module: what embeds; its predictions have `captions`, B strings.
        work: what there is to do.
        settings: the Trainer's accelerator, devices, num_nodes, strategy, precision.

    Raises:
        InputError: the Trainer does not accept the settings.
        KeyboardInterrupt: Ctrl-C; what is complete stays.
    """
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    whole: dict[str, Any] = {**settings, **dict.fromkeys(off, False)}
    try:
        trainer = Trainer(**whole, callbacks=[WriteShards(work)])
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"the devices can't be used: {' '.join(str(error).split())}") from error
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.predict(module, datamodule=work, return_predictions=False)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into exit code 1, and ignores it then
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from None
        raise


def _as_is(batch: Any) -> Any:
    return batch
