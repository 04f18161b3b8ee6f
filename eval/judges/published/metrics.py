"""The numbers of published metrics, from what their judges saw: one interval each, under its published name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.errors import InputError
from eval.judged import Judged
from eval.judges.features import CLIPExtractor
from eval.judges.judges import PublishedJudges, Scorer
from eval.judges.published import clips
from eval.judges.published.geneval import shapes_task
from eval.judges.published.listing import find_files
from eval.metrics.bootstrap import Interval, as_json
from eval.metrics.clip_score import clip_score
from eval.metrics.objects.base import CaptionShare, measured
from eval.metrics.objects.distances import CMMD, Authenticity, Frechet, FrechetInfinity, KernelDistance, Vendi
from eval.samples.geneval import KEY, TASKS

DINOV2 = {
    "fd_dinov2": Frechet,
    "fd_infinity_dinov2": FrechetInfinity,
    "kd_dinov2": KernelDistance,
    "authpct_dinov2": Authenticity,
}
PERCENT = 100.0


def load_published(words: list[str], weights: str | None, device: str | torch.device) -> PublishedJudges:
    """The judges that --metric names.

    Raises:
        InputError: an unknown metric, or a file that is missing or another one's. All are found before one is loaded.
    """
    found = [find_files(word, weights) for word in dict.fromkeys(words)]
    extractors: dict[str, Any] = {}
    scorers: dict[str, Scorer] = {}
    mlp = None
    for metric, files in found:
        name = metric.name
        if name == "dinov2":
            from eval.judges.published.dinov2 import DINOv2Extractor

            extractors[name] = DINOv2Extractor(files[0], device)
        elif name == "laion_aesthetic":
            from eval.judges.published.mlp import AestheticMLP

            mlp, extractors[name] = AestheticMLP(files[0]), clips.published_clip(name, files[1], device)
        elif name in clips.ARCHITECTURES and name != "geneval":
            extractors[name] = clips.published_clip(name, files[0], device)
        else:
            scorers[name] = _scorer(name, files, device)
    return PublishedJudges(extractors, scorers, mlp)


def _scorer(name: str, files: list[Path], device: str | torch.device) -> Scorer:
    if name == "imagereward":
        from eval.judges.published.image_reward import ImageReward

        return ImageReward(files[0], files[1], device)
    if name == "vqascore":
        from eval.judges.published.vqa import VQAScore

        return VQAScore(files[0], device)
    if name != "geneval":
        raise InputError(f"--metric {name} has no judge")
    from eval.judges.published.detector import GenEval

    return GenEval(files[0], clips.published_clip(name, files[1], device), device)


def published(judged: Judged) -> dict[str, Any]:
    """Name -> interval, JSON-ready, of all published metrics that were asked for and can be measured here."""
    found: dict[str, Interval | None] = {}
    judges = judged.judges.published
    for name in judges.extractors:
        if name == "dinov2":
            found |= {key: _distance(judged, kind) for key, kind in DINOV2.items()}
            vendi = Vendi(*judged.draws)
            found["vendi_dinov2"] = measured(vendi, judged.seen.tensor(name), judged.captions)
        elif name == "cmmd":
            found["cmmd_vit_l_14_336"] = judged.distance(CMMD, name)
        elif name == "laion_aesthetic":
            found[name] = judged.mean(judges.mlp(judged.seen.features[name]))
        elif judged.folder.captioned:
            clip = judges.extractors[name]
            assert isinstance(clip, CLIPExtractor)
            found[name] = _clip_score(judged, name, clip)
    for name in judges.scorers:
        if judged.folder.captioned and name != "geneval":
            found[name] = judged.mean(judged.seen.features[name][:, 0])
    named = {name: as_json(interval) for name, interval in found.items()}
    return named | _geneval(judged)


def _distance(judged: Judged, kind: type) -> Interval | None:
    if kind is FrechetInfinity and len(judged.folder) < 30:
        return None
    return judged.distance(kind, "dinov2")


def _clip_score(judged: Judged, name: str, clip: CLIPExtractor) -> Interval:
    texts = clip.encode_text(judged.folder.captions).numpy()
    cosines = clip_score(judged.seen.features[name], texts)
    return judged.mean(cosines * (clips.logit_scale(clip) if name == "pickscore" else PERCENT))


def _geneval(judged: Judged) -> dict[str, Any]:
    """ "geneval_<task>" of six and "geneval": their mean, as GenEval's overall score has it."""
    if "geneval" not in judged.seen.features:
        return {}
    tags = [record.get(KEY, {}).get("tag") for record in judged.folder.records]
    return by_task(tags, judged.seen.features["geneval"][:, 0], judged, "geneval")


def shapes_by_task(judged: Judged, right: np.ndarray) -> dict[str, Any]:
    """Shapes' exact accuracy ("all", (N,) with nan) under GenEval's six names: "shapes_geneval_<task>" and the mean."""
    tags = [shapes_task(record.get("mentioned")) for record in judged.folder.records]
    return by_task(tags, right, judged, "shapes_geneval")


def by_task(tags: list[str | None], right: np.ndarray, judged: Judged, name: str) -> dict[str, Any]:
    """Each task's share with its number "n" of pictures, and the mean of the tasks that there are.

    The mean's interval takes the tasks' captions as independent: half widths add up as their squares.
    """
    found: dict[str, Any] = {}
    for task in TASKS:
        column = np.where([tag == task for tag in tags], right, np.nan)
        interval = as_json(measured(CaptionShare(*judged.draws), torch.from_numpy(column), judged.captions))
        if interval is not None:
            found[f"{name}_{task}"] = {**interval, "n": int((~np.isnan(column)).sum())}
    if found:
        shares = list(found.values())
        mean = float(np.mean([share["value"] for share in shares]))
        low, high = (
            float(np.sqrt(sum((share[end] - share["value"]) ** 2 for share in shares))) / len(shares)
            for end in ("low", "high")
        )
        n = sum(share["n"] for share in shares)
        found = {name: {"value": mean, "low": mean - low, "high": mean + high, "n": n}, **found}
    return found
