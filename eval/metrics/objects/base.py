"""The base of all metric objects: samples that belong to captions, their order over ranks, and the interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from eval.metrics.bootstrap import Interval, Resampler

NAN = float("nan")


class DoubleMetric(Metric):
    """A metric whose float64 states stay on the CPU if the device has no float64, such as Apple's MPS."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        @wraps(fn)  # torchmetrics knows changes of the dtype by the function's name, and leaves states alone then
        def moved(tensor: Tensor) -> Tensor:
            try:
                return fn(tensor)
            except TypeError:
                if tensor.dtype != torch.float64:
                    raise
                return tensor

        return super()._apply(moved, exclude_state)


def double(values: Tensor) -> Tensor:
    """Values as float64, on their device if it has float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()


class CaptionMetric(DoubleMetric):
    """A metric of samples, each of which belongs to a caption; its interval is by the bootstrap over captions.

    Samples may come in batches of any size and on any rank. If their `index` is given (the number of each sample in the
    data), the result is the same bit for bit however they are divided. A sample that two ranks saw then counts once:
    samplers that pad a split hand out such copies. Without `index`, samples count in the order in which they come.

    `compute` gives the value, which a LightningModule logs by `self.log(name, metric)`; `interval` its limits too.

    Args:
        draws: bootstrap replicates of the interval; 0 for the value alone, with nan for the limits.
        seed: of the draws.
        columns: names of the states that hold a row a sample.
    """

    full_state_update = False
    is_differentiable = False
    captions: list[Tensor]
    index: list[Tensor]

    def __init__(self, draws: int = 0, seed: int = 0, columns: Sequence[str] = ("values",)) -> None:
        super().__init__()
        self.draws, self.seed, self.columns = draws, seed, tuple(columns)
        for name in (*self.columns, "captions", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def add(self, captions: Tensor | None, index: Tensor | None, **rows: Tensor) -> None:
        """Keeps rows of samples.

        Args:
            captions: (N,) the number of each sample's caption; None gives each a caption of its own.
            index: (N,) the number of each sample in the data; None for all updates or for none.
            rows: (N, ...) for each of `columns`.

        Raises:
            ValueError: rows of different lengths, or an index for some updates only.
        """
        lengths = {name: len(rows[name]) for name in self.columns}
        n = lengths[self.columns[0]]
        given = {"captions": captions, "index": index}
        lengths |= {name: len(values) for name, values in given.items() if values is not None}
        if set(lengths.values()) != {n}:
            raise ValueError(f"rows of one length are needed, found {lengths}")
        before = self._count(self.columns[0])
        if before and (self._count("index") > 0) != (index is not None):
            raise ValueError("give the samples' index in every update or in none")
        for name in self.columns:
            getattr(self, name).append(rows[name].detach())
        if captions is not None:
            self.captions.append(captions.detach().to(torch.int64))
        if index is not None:
            self.index.append(index.detach().to(torch.int64))

    def _count(self, name: str) -> int:
        state = getattr(self, name)
        return sum(map(len, state)) if isinstance(state, list) else len(state)

    def column(self, name: str) -> np.ndarray:
        """All rows of a state in the order of the samples; of one part that is a memory map, the map itself."""
        state = getattr(self, name)
        rows = dim_zero_cat(state) if len(state) else torch.empty(0)
        order = self._order()
        return rows.cpu().numpy() if order is None else rows.cpu().numpy()[order]

    def _order(self) -> np.ndarray | None:
        if not self._count("index"):
            return None
        index = dim_zero_cat(self.index).cpu().numpy()
        return np.unique(index, return_index=True)[1]

    def groups(self) -> np.ndarray:
        """(N,) the caption of each sample."""
        if self._count("captions"):
            return self.column("captions").astype(np.int64)
        return np.arange(len(self.column(self.columns[0])))

    def resampler(self) -> Resampler | None:
        """Draws captions; None where no interval is wanted."""
        return Resampler(self.groups(), self.draws, self.seed) if self.draws else None

    def found(self) -> Interval:
        """The value and its interval from the states, as the pure function has them."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """() float64: the value, over all ranks."""
        return torch.tensor(self.found().value, dtype=torch.float64)

    def interval(self) -> Interval:
        """The value and its interval, over all ranks; every rank has to ask."""
        with self.synced():
            return self.found()

    def synced(self) -> AbstractContextManager[None]:
        """The states of all ranks are merged inside of it, as `compute` has them."""
        context: AbstractContextManager[None] = self.sync_context(
            self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        )
        return context


class CaptionMean(CaptionMetric):
    """The mean of one number a sample, over the samples where it is not nan.

    Args:
        draws, seed: see CaptionMetric.
    """

    def __init__(self, draws: int = 0, seed: int = 0) -> None:
        super().__init__(draws, seed)

    def update(self, values: Tensor, captions: Tensor | None = None, index: Tensor | None = None) -> None:
        """Takes values (N,); nan stands for nothing measured."""
        self.add(captions, index, values=double(values))

    def found(self) -> Interval:
        return self._of(self.column("values"))

    def _of(self, values: np.ndarray) -> Interval:
        resampler = self.resampler()
        if resampler is not None:
            return resampler.mean(values)
        known = values[~np.isnan(values)]
        return Interval(float(known.mean()) if len(known) else NAN, NAN, NAN)


class CaptionShare(CaptionMean):
    """`CaptionMean` of values in [0, 1], such as zeros and ones, with a width where all agree (`Resampler.share`)."""

    def _of(self, values: np.ndarray) -> Interval:
        resampler = self.resampler()
        return super()._of(values) if resampler is None else resampler.share(values)


def share(values: np.ndarray, resampler: Resampler) -> Interval:
    """`CaptionShare` of values (N,), with the captions, draws and seed of a resampler."""
    metric = CaptionShare(resampler.draws, resampler.seed)
    return measured(metric, torch.from_numpy(np.asarray(values, dtype=np.float64)), torch.from_numpy(resampler.groups))


def measured(metric: CaptionMetric, *seen: Tensor) -> Interval:
    """The interval of a metric that is given all samples at once: `seen` are the arguments of its `update`.

    It asks no other rank: where several processes draw, one of them measures, and the others do not wait for it here.
    """
    metric.update(*seen)
    return metric.found()
