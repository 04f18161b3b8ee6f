"""Metric objects of pictures and their captions: CLIP score, R-precision, diversity, Inception Score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eval.metrics.bootstrap import Interval
from eval.metrics.clip_score import clip_score
from eval.metrics.diversity import within_caption_distance
from eval.metrics.inception_score import inception_score
from eval.metrics.objects.base import CaptionMean, CaptionMetric
from eval.metrics.retrieval import r_precision


class CLIPScore(CaptionMean):
    """The mean cosine of pictures and their captions (`eval.metrics.clip_score`).

    torchmetrics' CLIPScore is 100 times it, cut at 0, and by its own networks; clip_score in papers is often 2.5 times.
    """

    higher_is_better = True

    def update(  # type: ignore[override]
        self, images: Tensor, texts: Tensor, captions: Tensor | None = None, index: Tensor | None = None
    ) -> None:
        """Takes a CLIP's features (N, D) of pictures and of their captions."""
        cosines = clip_score(images.detach().cpu().numpy(), texts.detach().cpu().numpy())
        self.add(captions, index, values=torch.from_numpy(cosines))


class RPrecision(CaptionMetric):
    """How often a picture's own caption is the nearest among candidates (`eval.metrics.retrieval`).

    Args:
        candidates: captions to choose from, the own one included.
        draws, seed: see CaptionMetric; the seed also draws the other captions.
    """

    higher_is_better = True

    def __init__(self, candidates: int, draws: int = 0, seed: int = 0) -> None:
        super().__init__(draws, seed, ("images", "texts", "words"))
        self.candidates = candidates

    def update(
        self,
        images: Tensor,
        texts: Tensor,
        words: Tensor,
        captions: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Takes features (N, D) of pictures and captions, and `words` (N,): equal numbers for equal texts."""
        self.add(captions, index, images=images, texts=texts, words=words)

    def found(self) -> Interval:
        names = [str(number) for number in self.column("words").tolist()]
        right = r_precision(self.column("images"), self.column("texts"), names, self.candidates, self.seed)
        resampler = self.resampler()
        return Interval(float(right.mean()), *[float("nan")] * 2) if resampler is None else resampler.share(right)


class Diversity(CaptionMean):
    """The mean distance of a caption's samples from each other (`eval.metrics.diversity`)."""

    def update(  # type: ignore[override]
        self, features: Tensor, captions: Tensor | None = None, index: Tensor | None = None
    ) -> None:
        """Takes features (N, D)."""
        self.add(captions, index, values=features)

    def found(self) -> Interval:
        return self._of(within_caption_distance(self.column("values"), self.groups()))


class InceptionScore(CaptionMetric):
    """The Inception Score over all images at once (`eval.metrics.inception_score`).

    torch-fidelity and torchmetrics average it over ten splits; `inception_score_splits` does so too.

    Args:
        layer: maps features (n, D) to logits (n, C) as arrays; None where `update` takes logits.
        draws, seed: see CaptionMetric.
    """

    higher_is_better = True

    def __init__(self, layer: Callable[[np.ndarray], np.ndarray] | None = None, draws: int = 0, seed: int = 0) -> None:
        super().__init__(draws, seed, ("logits",))
        self.layer = layer

    def update(self, logits: Tensor, captions: Tensor | None = None, index: Tensor | None = None) -> None:
        """Takes logits (N, C), or what `layer` makes them of."""
        self.add(captions, index, logits=logits)

    def found(self) -> Interval:
        return inception_score(self.column("logits"), self.resampler(), self.layer)
