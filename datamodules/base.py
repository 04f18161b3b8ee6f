"""The order in which training sees its data, and the loaders that keep it.

The data of a run are one endless stream: a shuffled pass over all n samples, then the next pass, shuffled anew. Batch k
of rank r is a fixed slice of that stream, so it is a pure function of (seed, k, r, number of ranks). Nothing has to
be saved to resume: the Trainer knows how many batches are behind it, and the rest follows. There is one exception. If a
run goes on with batches of another size, or on another number of ranks, its position in the stream is saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from datamodules.order import ResumableLoader, SeededBatchSampler, evaluation_batches, leave_signals_to_training
from modules.errors import InputError

SPLITS = ("train", "val", "test")


class SplitDataModule(LightningDataModule):
    """Base of all DataModules: three splits, exact training order, plain evaluation order.

    A subclass gives `dataset(split)`: a map-style Dataset whose `__getitems__(indices)` returns a ready batch.
    The Trainer needs `use_distributed_sampler: false`.

    Args:
        batch_size: samples a batch and process, in training and in evaluation.
        seed: of the training order.
        num_workers: loader processes; 0 loads in the training process, fastest while the split fits into memory.
    """

    def __init__(self, batch_size: int, seed: int, num_workers: int) -> None:
        super().__init__()
        self.batch_size = at_least(1, "batch_size", batch_size)
        self.seed = at_least(0, "seed", seed)
        self.num_workers = at_least(0, "num_workers", num_workers)

    def dataset(self, split: str) -> Dataset[Any]:
        """The split as a Dataset: len() and `__getitems__(indices) -> batch`."""
        raise NotImplementedError

    def size(self, split: str) -> int:
        """Number of samples in the split."""
        return len(self.dataset(split))  # type: ignore[arg-type]

    def captions(self, split: str) -> list[str]:
        """The captions of a split, by index."""
        raise NotImplementedError

    @property
    def attributes(self) -> dict[str, tuple[str, ...]] | None:
        """Column of a batch's `attributes` -> its class names; None where the data know no truth."""
        return None

    @property
    def attribution(self) -> str | None:
        """The author and the licence to name where pictures of the data are shown; None if there are none to name."""
        return None

    def texts(self, split: str) -> Sequence[str]:
        """Every caption that a batch of the split may hold: `captions`, and the others of pairs that have several."""
        return self.captions(split)

    def data_hash(self, split: str) -> str:
        """Identifies the content of a split, whatever its resolution, order or batches."""
        raise NotImplementedError

    def vocabulary(self, min_count: int = 1) -> list[str]:
        """The sorted words (lower case, split at spaces) that occur `min_count` times or more in train captions."""
        counts = Counter(word for caption in self.texts("train") for word in caption.lower().split())
        return sorted(word for word, count in counts.items() if count >= min_count)

    def setup(self, stage: str) -> None:
        """Prepares the splits that the stage reads, so that rendering comes before training."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",)):
            self.dataset(split)

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the seeded order, from where the Trainer stands to where it ends.

        If only `max_steps` ends training, one Lightning epoch is the whole run, whatever the number of passes over the
        data. If something counts epochs (see `counts_epochs`), an epoch is one pass. The order is the same. With
        `overfit_batches` every epoch begins with the first batch.
        """
        trainer, n = self.trainer, self.size("train")
        overfit = trainer is not None and trainer.overfit_batches > 0  # type: ignore[attr-defined]
        total = None
        if trainer is not None and trainer.max_steps > 0 and not overfit and not counts_epochs(trainer):
            total = trainer.max_steps * trainer.accumulate_grad_batches
        sampler = SeededBatchSampler(
            n,
            self.batch_size,
            self.seed,
            start=self._batches_of_epoch if overfit else self._batches_consumed,
            total=total,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            **self._order(),
        )
        return self._training_loader(sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        # Lightning re-builds this loader around its own sampler, so it must be a plain one.
        return DataLoader(self.dataset("test"), batch_size=self.batch_size, **self._loader_options())

    def _evaluation_loader(self, split: str) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = evaluation_batches(self.size(split), self.batch_size, rank, world)
        return DataLoader(self.dataset(split), batch_sampler=batches, **self._loader_options())

    def _order(self) -> dict[str, Any]:
        """Further arguments of the training order's sampler."""
        return {}

    def _training_loader(self, sampler: SeededBatchSampler) -> ResumableLoader:
        return ResumableLoader(self.dataset("train"), batch_sampler=sampler, **self._loader_options())

    def _batches_consumed(self) -> int:
        # `processed`, not `ready`: right both after a checkpoint at a batch's end and after an exception within one.
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def _batches_of_epoch(self) -> int:
        # Nothing at the beginning of an epoch; in the middle of one only when a run goes on.
        progress = self.trainer.fit_loop.epoch_loop.batch_progress  # type: ignore[union-attr]
        return progress.current.processed  # type: ignore[union-attr]

    def _loader_options(self) -> dict[str, Any]:
        on_device = self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        return {
            "num_workers": self.num_workers,
            "collate_fn": _as_is,
            "pin_memory": on_device,
            "worker_init_fn": leave_signals_to_training,
        }


def counts_epochs(trainer: Trainer) -> bool:
    """Whether one of the Trainer's settings counts epochs: max_epochs, min_epochs, min_steps, check_val_every_n_epoch.

    `min_steps` does so too: Lightning then lets an EarlyStopping end training after one whole epoch at the earliest.
    """
    limited = trainer.max_epochs not in (None, -1)
    return limited or bool(trainer.min_epochs or trainer.min_steps) or trainer.check_val_every_n_epoch is not None


def at_least(bound: int, name: str, value: int) -> int:
    """`value`, if it is `bound` or more; else an InputError that names it."""
    if value < bound:
        raise InputError(f"{name} must be {bound} or more, got {value}")
    return value


def check_split(split: str) -> str:
    """`split`, if it is one; else an InputError that names those there are."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    return split


def _as_is(batch: Any) -> Any:
    return batch
