"""The judges' features of a folder of samples and of the real images, from which the further metrics are computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from eval.judges.judges import Judges, Seen
from eval.metrics.bootstrap import Interval, Resampler
from eval.metrics.objects.base import CaptionMean, CaptionShare, measured
from eval.metrics.objects.distances import FeatureDistance, PrecisionRecall
from eval.metrics.retrieval import CANDIDATES
from eval.samples.folder import SampleFolder


@dataclass(frozen=True)
class Judged:
    """Samples and real images as the judges see them: what a further metric is computed from.

    Attributes:
        folder: the N samples.
        seen: what the judges see in them.
        judges: the networks and probes.
        reference: features (M, D) of the real images, by judge; empty where there are none.
        resampler: of the captions of `folder`; it gives a metric its interval.
    """

    folder: SampleFolder
    seen: Seen
    judges: Judges
    reference: dict[str, np.ndarray]
    resampler: Resampler

    @property
    def features(self) -> np.ndarray:
        """(N, D) of the samples, by the judge of the Frechet distance."""
        return self.seen.features[self.judges.main]

    @property
    def real(self) -> np.ndarray:
        """(M, D) of the real images, by the same judge."""
        return self.reference[self.judges.main]

    @property
    def draws(self) -> tuple[int, int]:
        """How many draws an interval has, and their seed."""
        return self.resampler.draws, self.resampler.seed

    @property
    def captions(self) -> Tensor:
        """(N,) the caption of each sample."""
        return torch.from_numpy(self.folder.caption_index)

    def distance(self, kind: type[FeatureDistance], judge: str) -> Interval | None:
        """A distance of the samples' features by a judge from the real images'; None without real images."""
        if judge not in self.reference:
            return None
        return measured(kind(self.reference[judge], *self.draws), self.seen.tensor(judge), self.captions)

    def mean(self, values: np.ndarray, share: bool = False) -> Interval:
        """The mean over captions of one number a sample (N,)."""
        kind = CaptionShare if share else CaptionMean
        return measured(kind(*self.draws), torch.from_numpy(np.asarray(values, dtype=np.float64)), self.captions)

    @cached_property
    def manifolds(self) -> dict[str, Interval]:
        """precision, recall, density and coverage, which are computed together."""
        metric = PrecisionRecall(self.real, *self.draws)
        metric.update(self.seen.tensor(self.judges.main), self.captions)
        return metric.all_found()


def candidates(folder: SampleFolder) -> int:
    """How many captions R-precision chooses from: AttnGAN's 100, or all that a folder has."""
    return min(CANDIDATES, len(set(folder.captions)))
