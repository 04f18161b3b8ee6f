"""Statistics to fit the AR prior's codec: one pass over any number of embeddings, in parts that can be merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.placement.exact import exact

SAMPLE_SIZE = 65_536


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Mean and scatter of all embeddings, exactly, and a uniform sample of the pairs for everything else.

    The sample holds the pairs whose hashed indices are smallest, so it does not depend on how the data were cut into
    parts or in which order they came; with no more than `sample_size` pairs it is all of them. Adding and merging
    return new statistics.

    Attributes:
        count: of the embeddings.
        mean: (D,) float64; it and `scatter` lie on the CPU if the embeddings' device has no float64.
        scatter: (D, D) float64, sum of the outer products of deviations from the mean.
        z_i, z_t: (M, D) the sampled pairs.
        keys: (M,) int64 hashes of their indices, increasing.
        sample_size: the most pairs to keep.
    """

    count: int
    mean: Tensor
    scatter: Tensor
    z_i: Tensor
    z_t: Tensor
    keys: Tensor
    sample_size: int = SAMPLE_SIZE

    @classmethod
    def of(cls, z_i: Tensor, z_t: Tensor, index: Tensor, sample_size: int = SAMPLE_SIZE) -> EmbeddingStatistics:
        """The statistics of one part of the data.

        Args:
            z_i, z_t: (N, D), rows of the same pairs.
            index: (N,) int64, the pairs' positions in the whole data set, all different.
        """
        x = exact(z_i)
        mean = x.mean(dim=0)
        deviations = x - mean
        keys, order = _hashed(index).sort()
        kept = order[:sample_size]
        return cls(
            len(x), mean, deviations.T @ deviations, z_i[kept], z_t[kept], keys[:sample_size].clone(), sample_size
        )

    def merge(self, other: EmbeddingStatistics) -> EmbeddingStatistics:
        """The statistics of both parts together (Chan et al. 1979 for the scatter).

        Raises:
            ValueError: if the sample sizes differ.
        """
        if self.sample_size != other.sample_size:
            raise ValueError(f"sample sizes {self.sample_size} and {other.sample_size} do not go together")
        count = self.count + other.count
        apart = other.mean - self.mean
        keys, order = torch.cat([self.keys, other.keys]).sort()
        kept = order[: self.sample_size]
        return EmbeddingStatistics(
            count,
            self.mean + apart * (other.count / count),
            self.scatter + other.scatter + torch.outer(apart, apart) * (self.count * other.count / count),
            torch.cat([self.z_i, other.z_i])[kept],
            torch.cat([self.z_t, other.z_t])[kept],
            keys[: self.sample_size].clone(),
            self.sample_size,
        )

    @classmethod
    def over_ranks(cls, own: EmbeddingStatistics | None, rank: int, world: int, dim: int) -> EmbeddingStatistics | None:
        """Of all ranks' parts together, the same on every rank, which must all call this.

        They are merged in the order of the ranks. Against one pass over everything the order of the sums differs, and
        with it the last bits of mean and scatter; the sample is the same.

        Args:
            own: of this rank's part; None if it has none.
            rank, world: this rank, and how many there are.
            dim: D.
        """
        total: EmbeddingStatistics | None = None
        for sender in range(world):
            part = _broadcast(own if sender == rank else None, sender, rank, dim)
            if part is not None:
                total = part if total is None else total.merge(part)
        return total

    def principal(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (D,) of the covariance, decreasing, and the eigenvectors as rows (D, D), both float64."""
        values, vectors = torch.linalg.eigh(self.scatter / (self.count - 1))
        order = values.argsort(descending=True)
        return values[order].clamp(min=0), vectors.T[order]


def _broadcast(own: EmbeddingStatistics | None, sender: int, rank: int, dim: int) -> EmbeddingStatistics | None:
    """The sender's statistics on every rank; None if it has none."""
    about: list[tuple[int, int, int, torch.dtype] | None] = [None]
    if rank == sender and own is not None:
        about = [(own.count, len(own.keys), own.sample_size, own.z_i.dtype)]
    torch.distributed.broadcast_object_list(about, sender)
    if about[0] is None:
        return None
    count, kept, sample_size, dtype = about[0]
    shapes = {"mean": (dim,), "scatter": (dim, dim), "z_i": (kept, dim), "z_t": (kept, dim), "keys": (kept,)}
    kinds = {"mean": torch.float64, "scatter": torch.float64, "keys": torch.int64}
    device = _wire()
    sent = {}
    for name, shape in shapes.items():
        if rank == sender and own is not None:
            value = getattr(own, name).to(device).contiguous()
        else:
            value = torch.empty(shape, dtype=kinds.get(name, dtype), device=device)
        torch.distributed.broadcast(value, sender)
        sent[name] = value
    return EmbeddingStatistics(count, sample_size=sample_size, **sent)


def _wire() -> torch.device:
    """Where tensors have to lie to be sent: on the accelerator for NCCL, on the CPU for gloo."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def components_for(eigenvalues: Tensor, retained: float) -> int:
    """How many leading components hold a share of the variance (the paper: 99 %, 319 of 1,024).

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not 0 < retained <= 1:
        raise ValueError(f"the retained share must lie in (0, 1], got {retained}")
    held = exact(eigenvalues)
    shares = held.cumsum(0) / held.sum()
    return min(int((shares < retained - 1e-12).sum()) + 1, len(eigenvalues))


def _hashed(index: Tensor) -> Tensor:
    """(N,) int64 -> (N,) int64: splitmix64, whose bits look random and which maps no two numbers to one."""
    x = index.long() + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
