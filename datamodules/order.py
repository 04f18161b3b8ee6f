"""The order in which training sees its data, and the loaders that keep it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from modules.errors import InputError
from modules.untrusted.reading import printable


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
    """A DataLoader that takes its position from the Trainer. Its state says of which order that is the position."""

    def state_dict(self) -> dict[str, Any]:
        sampler = self._order
        return {key: getattr(sampler, key) for key in ("n", "batch_size", "seed", "world", "order", "origin")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        here = self.state_dict()
        then = here | state
        self._go_on(then["batch_size"] * then["world"], *state.get("origin", (0, 0)))
        changed = [
            printable(f"{key} {then[key]} -> {here[key]}") for key in ("n", "seed", "order") if then[key] != here[key]
        ]
        if changed:
            rank_zero_warn(
                f"the data order is not the one that this run began with ({', '.join(changed)}): "
                "samples may repeat or be left out before the next pass"
            )

    def _go_on(self, size: int, batches: int, position: int) -> None:
        """Go on from the place in the stream that batches of this many samples (over all ranks) have reached."""
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


def leave_signals_to_training(worker_id: int = 0) -> None:
    """The first action of a loader process: from then on it ignores signals that ask its process group to stop.

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
