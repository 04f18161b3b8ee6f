"""The metrics beside those of the main table: one JSON-ready interval each, from features that were seen already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from eval.judges.judges import Judges, Seen
from eval.metrics.binding import outcomes
from eval.metrics.bootstrap import Interval, Resampler, as_json
from eval.metrics.inception_score import inception_score
from eval.metrics.kernel import cmmd, kid
from eval.metrics.limits.by_count import accuracy_by_count
from eval.metrics.limits.lettering import lettering, read_words
from eval.metrics.precision_recall import manifolds
from eval.metrics.retrieval import CANDIDATES, r_precision
from eval.metrics.scoring import describe
from eval.samples.folder import SampleFolder


@dataclass(frozen=True)
class Judged:
    """Samples and real images as the judges see them: what a further metric is computed from.

    Attributes:
        folder: the N samples.
        seen: what the judges see in them.
        judges: the networks and probes.
        reference: features (M, D) of the real images, by judge.
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

    @cached_property
    def manifolds(self) -> dict[str, Interval]:
        """precision, recall, density and coverage, which are computed together."""
        return manifolds(self.features, self.real, captions=self.resampler.groups).intervals(self.resampler)


def candidates(folder: SampleFolder) -> int:
    """How many captions R-precision chooses from: AttnGAN's 100, or all that a folder has."""
    return min(CANDIDATES, len(set(folder.captions)))


def _cmmd(judged: Judged) -> Interval | None:
    if judged.judges.clip is None:
        return None
    return cmmd(judged.seen.features["clip"], judged.reference["clip"], judged.resampler)


def _r_precision(judged: Judged) -> Interval | None:
    clip, folder = judged.judges.clip, judged.folder
    if clip is None or clip.tokenizer is None or candidates(folder) < 2:
        return None
    texts, seed = clip.encode_text(folder.captions).numpy(), judged.resampler.seed
    right = r_precision(judged.seen.features["clip"], texts, folder.captions, candidates(folder), seed)
    return judged.resampler.share(right)


def _inception_score(judged: Judged) -> Interval | None:
    layer, pooled = getattr(judged.judges.inception, "logits", None), judged.seen.features.get("inception")
    if layer is None or pooled is None or layer(pooled[:1]) is None:
        return None
    return inception_score(pooled, judged.resampler, layer)


def _probe(judged: Judged, name: str) -> Interval | None:
    probe = getattr(judged.judges, name)
    return None if probe is None else judged.resampler.mean(probe(judged.seen.features["clip"]))


METRICS: dict[str, Callable[[Judged], Interval | None]] = {
    "kid": lambda judged: kid(judged.features, judged.real, judged.resampler),
    "precision": lambda judged: judged.manifolds["precision"],
    "recall": lambda judged: judged.manifolds["recall"],
    "density": lambda judged: judged.manifolds["density"],
    "coverage": lambda judged: judged.manifolds["coverage"],
    "cmmd": _cmmd,
    "r_precision": _r_precision,
    "inception_score": _inception_score,
    "aesthetic": lambda judged: _probe(judged, "aesthetic"),
    "preference": lambda judged: _probe(judged, "preference"),
}
"""Name in metrics.json -> the metric; None where it cannot be measured. `eval.tables.further.COLUMNS` shows them."""

NAMES = tuple(METRICS)


def further(
    folder: SampleFolder, seen: Seen, judges: Judges, reference: dict[str, np.ndarray], resampler: Resampler
) -> dict[str, Any]:
    """All of `METRICS`; where there is ground truth, "binding": {pair: {"bound", "swapped", "missing"}},
    "accuracy_by_count" of `eval.metrics.limits.by_count`, "lettering" of `eval.metrics.limits.lettering`.

    Args:
        folder: the samples.
        seen: what the judges see in them.
        judges: the networks and probes.
        reference: features (M, D) of the real images, by judge.
        resampler: of the captions of `folder`.

    Raises:
        InputError: too few samples or real images for the neighbours of precision and recall.
    """
    judged = Judged(folder, seen, judges, reference, resampler)
    return {
        **{name: as_json(metric(judged)) for name, metric in METRICS.items()},
        "binding": _binding(folder, seen, judges, resampler),
        "accuracy_by_count": _by_count(folder, seen, judges, resampler),
        "lettering": _lettering(folder, seen, judges, resampler),
    }


def _binding(
    folder: SampleFolder, seen: Seen, judges: Judges, resampler: Resampler
) -> dict[str, dict[str, Any]] | None:
    known = [k for k, record in enumerate(folder.records) if record.get("mentioned")]
    if judges.classifier is None or seen.classes is None or not known:
        return None
    words = describe(seen.classes[known], judges.classifier.classifier.attributes)
    found = outcomes(words, [folder.records[k]["mentioned"] for k in known])
    result: dict[str, dict[str, Any]] = {}
    for pair, kinds in found.items():
        n = int((~np.isnan(next(iter(kinds.values())))).sum())
        result[pair] = {"n": n}
        for kind, values in kinds.items():
            column = np.full(len(folder), np.nan)
            column[known] = values
            result[pair][kind] = as_json(resampler.share(column))
    return result or None


def _by_count(
    folder: SampleFolder, seen: Seen, judges: Judges, resampler: Resampler
) -> dict[str, dict[str, Any]] | None:
    mentioned = [record.get("mentioned") or None for record in folder.records]
    if judges.classifier is None or seen.classes is None or not any(mentioned):
        return None
    return accuracy_by_count(describe(seen.classes, judges.classifier.classifier.attributes), mentioned, resampler)


def _lettering(
    folder: SampleFolder, seen: Seen, judges: Judges, resampler: Resampler
) -> dict[str, dict[str, Any]] | None:
    if judges.classifier is None or seen.classes is None:
        return None
    read = read_words(seen.classes, judges.classifier.classifier.attributes)
    return None if read is None else lettering(read, folder.records, resampler)
