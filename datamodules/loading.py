"""The order in which training sees its data, and the loaders that keep it.

The data of a run are one endless stream: a shuffled pass over all n samples, then the next pass, shuffled anew. Batch k
of rank r is a fixed slice of that stream, so it is a pure function of (seed, k, r, number of ranks). Nothing has to
be saved to resume: the Trainer knows how many batches are behind it, and the rest follows. Only where a run goes on
with larger or smaller batches, or on more or fewer ranks, is it noted where in the stream that was.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Sampler

from modules.errors import InputError

SPLITS = ("train", "val", "test")


class SeededBatchSampler(Sampler[list[int]]):
    """Lists of indices, batch after batch, from the shuffled stream described above.

    Args:
        n: samples in the split.
        batch_size: samples a batch and rank; every batch is full, and may reach into the next pass.
        seed: of the shuffling; the same on all ranks.
        start: batches already consumed, or a function that tells; asked whenever iteration begins.
        total: batches an iteration ends at (len), normally those of the whole run; one pass when None. An iteration
            that starts at or beyond it ends at the next multiple.
        rank: which of `world` shares this process sees.
        world: number of processes; together they see every sample exactly once a pass.
        permute: makes the (n,) order of a pass from its generator; None shuffles all n uniformly.
        number_passes: hand out index + (pass + 1) * n instead of the index, for data that draw anew in every pass.
        order: what `permute` does, in words that tell one order from another.

    Attributes:
        origin: a number of batches, and the stream's position after them, from which batches of this size are counted.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        start: int | Callable[[], int] = 0,
        total: int | None = None,
        rank: int = 0,
        world: int = 1,
        permute: Callable[[np.random.Generator], np.ndarray] | None = None,
        number_passes: bool = False,
        order: str = "shuffled",
    ) -> None:
        if n < 1:
            raise InputError("the training split is empty: give it at least one sample")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.start, self.order = start, order
        self.total = -(-n // (batch_size * world)) if total is None else total
        self.origin = (0, 0)
        self._permute = permute or (lambda rng: rng.permutation(n))
        self._number_passes = number_passes
        self._passes: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.total

    @property
    def consumed(self) -> int:
        """Batches already consumed."""
        return self.start() if callable(self.start) else self.start

    def __iter__(self) -> Iterator[list[int]]:
        first = self.consumed
        for k in range(first, (first // self.total + 1) * self.total):
            yield self.batch(k)

    def batch(self, k: int) -> list[int]:
        """The indices of batch k: counted from the origin, positions (k * world + rank) * batch_size and on."""
        batches, position = self.origin
        first = position + ((k - batches) * self.world + self.rank) * self.batch_size
        passes, places = np.divmod(np.arange(first, first + self.batch_size), self.n)
        return np.concatenate([self._pass(p)[places[passes == p]] for p in np.unique(passes).tolist()]).tolist()

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._passes:
            if len(self._passes) > 1:
                self._passes.pop(min(self._passes))
            order = self._permute(np.random.default_rng((self.seed, number)))
            self._passes[number] = order + (number + 1) * self.n if self._number_passes else order
        return self._passes[number]


def evaluation_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Every index exactly once over all ranks, in order, the last partial batch kept.

    All ranks get equally many batches, as collective operations need, so with several ranks a last batch may hold one
    sample more than `batch_size`.

    Raises:
        InputError: fewer samples than ranks.
    """
    if n < world:
        raise InputError(
            f"a split of {n} samples can't be shared by {world} processes: enlarge it or use fewer devices"
        )
    mine = list(range(rank, n, world))
    cuts = range(batch_size, batch_size * -(-(n // world) // batch_size), batch_size)
    return [mine[a:b] for a, b in zip([0, *cuts], [*cuts, len(mine)], strict=True)]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose position is the Trainer's; its state records which order, and what, the position counts."""

    def state_dict(self) -> dict[str, Any]:
        sampler = self._order
        return {key: getattr(sampler, key) for key in ("n", "batch_size", "seed", "world", "order", "origin")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        here = self.state_dict()
        then = here | state
        self._go_on(then["batch_size"] * then["world"], *state.get("origin", (0, 0)))
        changed = [f"{key} {then[key]} -> {here[key]}" for key in ("n", "seed", "order") if then[key] != here[key]]
        if changed:
            rank_zero_warn(
                f"the data order is not the one that this run began with ({', '.join(changed)}): "
                "samples may repeat or be left out before the next pass"
            )

    def _go_on(self, size: int, batches: int, position: int) -> None:
        """Go on from where batches of so many samples, over all ranks, have brought the run since its last origin."""
        sampler = self._order
        sampler.origin = batches, position
        if size != sampler.batch_size * sampler.world:
            behind = sampler.consumed
            sampler.origin = behind, position + (behind - batches) * size

    @property
    def _order(self) -> SeededBatchSampler:
        sampler = self.batch_sampler
        assert isinstance(sampler, SeededBatchSampler)
        return sampler


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
        """Whom to name, and the licence, where pictures of the data are shown; None where there is nothing to name."""
        return None

    def texts(self, split: str) -> Sequence[str]:
        """Every caption that a batch of the split may hold: `captions`, and more where pairs have several."""
        return self.captions(split)

    def data_hash(self, split: str) -> str:
        """Identifies the content of a split, whatever its resolution, order or batches."""
        raise NotImplementedError

    def vocabulary(self, min_count: int = 1) -> list[str]:
        """The sorted words (parted by spaces, lower case) that occur `min_count` times or more in train captions."""
        counts = Counter(word for caption in self.texts("train") for word in caption.lower().split())
        return sorted(word for word, count in counts.items() if count >= min_count)

    def setup(self, stage: str) -> None:
        """Prepares the splits that the stage reads, so that rendering comes before training."""
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",)):
            self.dataset(split)

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the seeded order, from where the Trainer stands to where it ends.

        With `max_steps`, one Lightning epoch is the whole run, whatever the number of passes over the data;
        without, it is one pass.
        """
        trainer, n = self.trainer, self.size("train")
        total = trainer.max_steps * trainer.accumulate_grad_batches if trainer is not None else -1
        sampler = SeededBatchSampler(
            n,
            self.batch_size,
            self.seed,
            start=self._batches_consumed,
            total=total if total > 0 else None,
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

    def _loader_options(self) -> dict[str, Any]:
        on_device = self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        return {
            "num_workers": self.num_workers,
            "collate_fn": _as_is,
            "pin_memory": on_device,
            "worker_init_fn": leave_signals_to_training,
        }


def leave_signals_to_training(worker_id: int = 0) -> None:
    """What a loader process does first: it goes on working when its process group is asked to stop.

    Ctrl-C, `timeout`, torchrun, systemd and many schedulers send a signal to all processes at once. Training answers
    it with a last step and a checkpoint, and needs its batches for that; then it ends its loaders itself. A loader that
    died first would end training with an error. The second SIGTERM is obeyed: that is how Python ends a loader
    that does not come to its end.
    """

    def received(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, received)
    for number in (signal.SIGINT, signal.SIGUSR1):  # Or the handlers that it has inherited from training are called.
        signal.signal(number, signal.SIG_IGN)


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
