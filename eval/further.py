"""The metrics beside those of the main table: one JSON-ready interval each, from features that were seen already."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.judges.judges import Judges, Seen
from eval.metrics.binding import outcomes
from eval.metrics.bootstrap import Interval, Resampler, as_json
from eval.metrics.inception_score import inception_score
from eval.metrics.kernel import cmmd, kid
from eval.metrics.precision_recall import manifolds
from eval.metrics.retrieval import CANDIDATES, r_precision
from eval.metrics.scoring import describe
from eval.samples.folder import SampleFolder

NAMES = (
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "cmmd",
    "r_precision",
    "inception_score",
    "aesthetic",
    "preference",
)


def candidates(folder: SampleFolder) -> int:
    """How many captions R-precision chooses from: AttnGAN's 100, or all that a folder has."""
    return min(CANDIDATES, len(set(folder.captions)))


def further(
    folder: SampleFolder, seen: Seen, judges: Judges, reference: dict[str, np.ndarray], resampler: Resampler
) -> dict[str, Any]:
    """All names of `NAMES`, and "binding": {pair: {"bound", "swapped", "missing"}} where there is ground truth.

    Args:
        folder: the samples.
        seen: what the judges see in them.
        judges: the networks and probes.
        reference: features (M, D) of the real images, by judge.
        resampler: of the captions of `folder`.

    Raises:
        InputError: too few samples or real images for the neighbours of precision and recall.
    """
    main = judges.main
    features, real = seen.features[main], reference[main]
    found: dict[str, Interval | None] = dict.fromkeys(NAMES)
    found["kid"] = kid(features, real, resampler)
    found |= manifolds(features, real, captions=resampler.groups).intervals(resampler)
    if judges.clip is not None:
        found |= _by_clip(folder, seen.features["clip"], reference["clip"], judges, resampler)
    layer, pooled = getattr(judges.inception, "logits", None), seen.features.get("inception")
    if layer is not None and pooled is not None and layer(pooled[:1]) is not None:
        found["inception_score"] = inception_score(pooled, resampler, layer)
    return {
        **{name: as_json(value) for name, value in found.items()},
        "binding": _binding(folder, seen, judges, resampler),
    }


def _by_clip(
    folder: SampleFolder, features: np.ndarray, real: np.ndarray, judges: Judges, resampler: Resampler
) -> dict[str, Interval | None]:
    assert judges.clip is not None
    found: dict[str, Interval | None] = {"cmmd": cmmd(features, real, resampler)}
    if judges.clip.tokenizer is not None and candidates(folder) > 1:
        texts = judges.clip.encode_text(folder.captions).numpy()
        right = r_precision(features, texts, folder.captions, candidates(folder), resampler.seed)
        found["r_precision"] = resampler.share(right)
    for name in ("aesthetic", "preference"):
        probe = getattr(judges, name)
        if probe is not None:
            found[name] = resampler.mean(probe(features))
    return found


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
