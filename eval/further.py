"""The metrics beside those of the main table: one JSON-ready interval each, from features that were seen already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from eval.judged import Judged, candidates
from eval.judges.judges import Judges, Seen
from eval.judges.published.metrics import published, shapes_by_task
from eval.metrics.binding import outcomes
from eval.metrics.bootstrap import Interval, Resampler, as_json
from eval.metrics.limits.by_count import accuracy_by_count
from eval.metrics.limits.lettering import lettering, read_words, spelled
from eval.metrics.objects.base import measured, share
from eval.metrics.objects.captions import InceptionScore, RPrecision
from eval.metrics.objects.distances import CMMD, KernelDistance
from eval.metrics.scoring import describe
from eval.samples.folder import SampleFolder


def _cmmd(judged: Judged) -> Interval | None:
    return None if judged.judges.clip is None else judged.distance(CMMD, "clip")


def _r_precision(judged: Judged) -> Interval | None:
    clip, folder = judged.judges.clip, judged.folder
    if clip is None or clip.tokenizer is None or not folder.captioned or candidates(folder) < 2:
        return None
    number = {caption: k for k, caption in enumerate(dict.fromkeys(folder.captions))}
    words = torch.tensor([number[caption] for caption in folder.captions])
    metric = RPrecision(candidates(folder), *judged.draws)
    return measured(metric, judged.seen.tensor("clip"), clip.encode_text(folder.captions), words, judged.captions)


def _inception_score(judged: Judged) -> Interval | None:
    layer, pooled = getattr(judged.judges.inception, "logits", None), judged.seen.features.get("inception")
    if layer is None or pooled is None or layer(pooled[:1]) is None:
        return None
    return measured(InceptionScore(layer, *judged.draws), judged.seen.tensor("inception"), judged.captions)


def _probe(judged: Judged, name: str) -> Interval | None:
    probe = getattr(judged.judges, name)
    return None if probe is None else judged.mean(probe(judged.seen.features["clip"]))


METRICS: dict[str, Callable[[Judged], Interval | None]] = {
    "kid": lambda judged: judged.distance(KernelDistance, judged.judges.main),
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
ALONE = ("r_precision", "inception_score", "aesthetic", "preference")
"""Those that need no real images."""


def further(
    folder: SampleFolder,
    seen: Seen,
    judges: Judges,
    reference: dict[str, np.ndarray],
    resampler: Resampler,
    right: np.ndarray | None = None,
) -> dict[str, Any]:
    """All of `METRICS`, "published": {name: interval} and "binding": {pair: {"bound", "swapped", "missing"}}.

    "accuracy_by_count" is of `eval.metrics.limits.by_count`, "lettering" and "spelled" of
    `eval.metrics.limits.lettering`. Published are those that `--metric` asked for. Binding, and GenEval's task names,
    are where there is ground truth.

    Args:
        folder: the samples.
        seen: what the judges see in them.
        judges: the networks and probes.
        reference: features (M, D) of the real images, by judge; empty where there are none.
        resampler: of the captions of `folder`.
        right: (N,) 1 where a picture has all that its caption mentions, nan without ground truth; None without any.

    Raises:
        InputError: too few samples or real images for the neighbours of precision and recall.
    """
    judged = Judged(folder, seen, judges, reference, resampler)
    named = published(judged)
    if right is not None:
        named |= shapes_by_task(judged, right)
    return {
        "published": named,
        **{name: as_json(metric(judged)) if reference or name in ALONE else None for name, metric in METRICS.items()},
        "binding": _binding(folder, seen, judges, resampler),
        "accuracy_by_count": _by_count(folder, seen, judges, resampler),
        **_lettering(folder, seen, judges, resampler),
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
            result[pair][kind] = as_json(share(column, resampler))
    return result or None


def _by_count(
    folder: SampleFolder, seen: Seen, judges: Judges, resampler: Resampler
) -> dict[str, dict[str, Any]] | None:
    mentioned = [record.get("mentioned") or None for record in folder.records]
    if judges.classifier is None or seen.classes is None or not any(mentioned):
        return None
    return accuracy_by_count(describe(seen.classes, judges.classifier.classifier.attributes), mentioned, resampler)


def _lettering(folder: SampleFolder, seen: Seen, judges: Judges, resampler: Resampler) -> dict[str, Any]:
    read = None
    if judges.classifier is not None and seen.classes is not None:
        read = read_words(seen.classes, judges.classifier.classifier.attributes)
    if read is None:
        return {"lettering": None, "spelled": None}
    return {"lettering": lettering(read, folder.records, resampler), "spelled": spelled(read, folder.records)}
