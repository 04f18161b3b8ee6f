"""Metric objects of two sets of features: Frechet distances, KID, CMMD, precision and recall, authenticity, Vendi."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from eval.metrics.authenticity import authentic
from eval.metrics.bootstrap import Interval
from eval.metrics.diversity import vendi_interval, vendi_score
from eval.metrics.frechet import (
    FeatureStatistics,
    FrechetDistance,
    frechet_distance,
    frechet_infinity,
)
from eval.metrics.frechet_interval import frechet_interval
from eval.metrics.kernel import cmmd, kid
from eval.metrics.objects.base import NAN, CaptionMetric, DoubleMetric
from eval.metrics.precision_recall import manifolds

Reference = np.ndarray | Tensor | None


class FeatureDistance(CaptionMetric):
    """Base of distances between features of samples and of real images.

    Args:
        reference: (M, D) features of the real images, the same on every rank; None where `update` brings them.
        draws, seed: see CaptionMetric.
    """

    higher_is_better = False
    real: list[Tensor]

    def __init__(self, reference: Reference = None, draws: int = 0, seed: int = 0) -> None:
        super().__init__(draws, seed, ("features",))
        self._reference = reference if reference is None else np.asarray(reference)
        self.add_state("real", [], dist_reduce_fx="cat")

    def update(
        self,
        features: Tensor,
        captions: Tensor | None = None,
        index: Tensor | None = None,
        real: bool = False,
    ) -> None:
        """Takes features (N, D) of samples, or of real images where `real`."""
        if real:
            self.real.append(features.detach())
        else:
            self.add(captions, index, features=features)

    @property
    def reference(self) -> np.ndarray:
        """(M, D) features of the real images."""
        if self._reference is not None:
            return self._reference
        if not len(self.real):
            raise ValueError("no real images were given: update(features, real=True)")
        rows: np.ndarray = dim_zero_cat(self.real).cpu().numpy()
        return rows


class Frechet(FeatureDistance):
    """The Frechet distance (`eval.metrics.frechet`) with its interval; FID, where features are Inception's.

    The value is clean-fid's and torchmetrics' to 1e-10 of the traces for equal features.

    Args:
        reference: features (M, D) or statistics of the real images.
        draws, seed: see CaptionMetric.
    """

    def __init__(self, reference: Reference | FeatureStatistics = None, draws: int = 0, seed: int = 0) -> None:
        given = isinstance(reference, FeatureStatistics)
        super().__init__(None if given else reference, draws, seed)  # type: ignore[arg-type]
        self.statistics: FeatureStatistics | None = reference if given else None  # type: ignore[assignment]

    def found(self) -> Interval:
        real = FeatureStatistics.of(self.reference) if self.statistics is None else self.statistics
        features, resampler = self.column("features"), self.resampler()
        if resampler is None:
            return Interval(FrechetDistance(real)(FeatureStatistics.of(features)), NAN, NAN)
        return frechet_interval(features, real, resampler)


class StreamingFrechet(DoubleMetric):
    """The Frechet distance from sums alone: its memory does not grow with the samples. No interval.

    Counts, means and scatters are packed into one float64 state, which is merged over ranks as Chan et al. merge parts
    (1979), without the loss of digits of sums of squares.

    Args:
        dim: D of the features.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    samples: Tensor
    real: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        empty = pack(FeatureStatistics.empty(dim))
        for name in ("samples", "real"):
            self.add_state(name, empty.clone(), dist_reduce_fx=merge_packed)

    def update(self, features: Tensor, real: bool = False) -> None:
        """Takes features (N, D) of samples, or of real images where `real`."""
        name = "real" if real else "samples"
        seen = FeatureStatistics.of(features.detach().cpu().numpy())
        state = getattr(self, name)
        setattr(self, name, pack(unpack(state).merge(seen)).to(state.device))

    def compute(self) -> Tensor:
        """() float64: the distance; nan with fewer than two of either."""
        real, samples = unpack(self.real), unpack(self.samples)
        value = frechet_distance(samples, real) if min(real.n, samples.n) >= 2 else NAN
        return torch.tensor(value, dtype=torch.float64)


def pack(statistics: FeatureStatistics) -> Tensor:
    """(1 + D + D^2,) float64: n, mean, scatter."""
    parts = (np.array([statistics.n]), statistics.mean, statistics.scatter.reshape(-1))
    return torch.from_numpy(np.concatenate(parts).astype(np.float64))


def unpack(packed: Tensor) -> FeatureStatistics:
    """The inverse of `pack`."""
    values = packed.cpu().numpy()
    dim = round((np.sqrt(4 * len(values) - 3) - 1) / 2)
    return FeatureStatistics(float(values[0]), values[1 : 1 + dim], values[1 + dim :].reshape(dim, dim))


def merge_packed(stacked: Tensor) -> Tensor:
    """The reduction of packed statistics: (ranks, 1 + D + D^2) -> (1 + D + D^2,)."""
    total, *others = map(unpack, stacked)
    for other in others:
        total = total.merge(other)
    return pack(total).to(stacked.device)


class FrechetInfinity(FeatureDistance):
    """The Frechet distance extrapolated to infinitely many samples (`eval.metrics.frechet.frechet_infinity`)."""

    def found(self) -> Interval:
        return frechet_infinity(self.column("features"), self.reference, seed=self.seed)


class KernelDistance(FeatureDistance):
    """KID, of all pairs at once (`eval.metrics.kernel.kid`); torchmetrics and torch-fidelity average random subsets."""

    def found(self) -> Interval:
        return kid(self.column("features"), self.reference, self.resampler())


class CMMD(FeatureDistance):
    """CMMD of a CLIP's image features (`eval.metrics.kernel.cmmd`)."""

    def found(self) -> Interval:
        return cmmd(self.column("features"), self.reference, self.resampler())


class PrecisionRecall(FeatureDistance):
    """precision, recall, density and coverage (`eval.metrics.precision_recall`), which are computed together."""

    higher_is_better = True

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Each name -> () float64, over all ranks; a LightningModule logs them by `self.log_dict`."""
        return {name: torch.tensor(found.value, dtype=torch.float64) for name, found in self.all_found().items()}

    def intervals(self) -> dict[str, Interval]:
        """Each name -> its value and interval, over all ranks; every rank has to ask."""
        with self.synced():
            return self.all_found()

    def all_found(self) -> dict[str, Interval]:
        """`intervals` of this rank's samples alone."""
        groups, resampler = self.groups(), self.resampler()
        found = manifolds(self.column("features"), self.reference, captions=groups)
        if resampler is not None:
            return found.intervals(resampler)
        values = {
            "precision": found.precise,
            "recall": found.recalled,
            "density": found.dense,
            "coverage": found.covered,
        }
        return {name: Interval(float(value.mean()), NAN, NAN) for name, value in values.items()}


class Authenticity(FeatureDistance):
    """AuthPct: the percentage of samples that are no copies of real images (`eval.metrics.authenticity`)."""

    higher_is_better = True

    def found(self) -> Interval:
        values = authentic(self.column("features"), self.reference)
        resampler = self.resampler()
        share = Interval(float(values.mean()), NAN, NAN) if resampler is None else resampler.share(values)
        return Interval(*(100 * number for number in share))


class Vendi(CaptionMetric):
    """The Vendi score: how many different samples there are, in effect (`eval.metrics.diversity`)."""

    higher_is_better = True

    def __init__(self, draws: int = 0, seed: int = 0) -> None:
        super().__init__(draws, seed, ("features",))

    def update(self, features: Tensor, captions: Tensor | None = None, index: Tensor | None = None) -> None:
        """Takes features (N, D)."""
        self.add(captions, index, features=features)

    def found(self) -> Interval:
        features, resampler = self.column("features"), self.resampler()
        if resampler is None:
            return Interval(vendi_score(features), NAN, NAN)
        return vendi_interval(features, resampler)
