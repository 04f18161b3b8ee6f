"""Validation's numbers as torchmetrics objects: states that Lightning merges over batches and ranks, and resets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

SSIM_SIDE = 11
"""Pixels of the window of SSIM: smaller pictures have none."""
THUMBNAIL = 4
"""Side to which pictures are reduced for the small Frechet distance: 48 features."""


class Measures(nn.ModuleDict):
    """A stage's validation numbers by name. A mean is made when its name is first seen; it has no weights to save."""

    def mean(self, name: str, values: Tensor) -> Metric:
        """The mean of `name` over samples, batches and ranks, with more of them.

        Args:
            name: of the number; without dots.
            values: (N,) one number a sample; a scalar counts as one sample. NaN is left out.
        """
        if name not in self:
            self[name] = MeanMetric(nan_strategy="ignore").to(values.device)
        metric = self[name]
        assert isinstance(metric, Metric)
        metric.update(values.detach().float())
        return metric


class SmallFrechet(FrechetInceptionDistance):
    """torchmetrics' Frechet distance of features that are given: no network is asked. NaN for fewer than two samples.

    Its states are float64 sums. It is to see a model change in training, at one number of samples; `unclip evaluate`
    measures.

    Args:
        dim: of the features.
    """

    def __init__(self, dim: int) -> None:
        features = nn.Identity()
        features.num_features = dim  # type: ignore[assignment]
        super().__init__(features)

    def compute(self) -> Tensor:
        """() the distance."""
        if min(int(self.real_features_num_samples), int(self.fake_features_num_samples)) < 2:
            return torch.full((), torch.nan)
        found: Tensor = super().compute()
        return found


def thumbnails(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 16 C) their pixels at 4 x 4, antialiased: where which colour is."""
    size = (THUMBNAIL, THUMBNAIL)
    small = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return small.flatten(1)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio of images in [-1, 1], in dB; 100 at most."""
    found: Tensor = peak_signal_noise_ratio(images, truth, data_range=2.0, reduction="none", dim=(1, 2, 3))
    return found.clamp(max=100)


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """(N,) structural similarity of images in [-1, 1] of 11 px or more (2004, Wang et al.)."""
    found: Tensor = structural_similarity_index_measure(images, truth, data_range=2.0, reduction="none")  # type: ignore[assignment]
    return found
