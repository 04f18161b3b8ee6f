"""The study's sample folders, RUN/samples/PROMPTS-MODEL-PART, judged picture by picture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.captions.models import MODELS, PROMPTS
from eval.errors import InputError
from eval.judges.judges import Judges, look
from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.clip_score import clip_score
from eval.metrics.scoring import ATTRIBUTES, describe, score_all
from eval.samples.folder import SampleFolder

METRICS = ("clip_score", "all")
NAME = re.compile(r"(?P<prompts>[a-z_]+)-(?P<model>[a-z_0-9]+)-(?P<part>\d+)")


@dataclass(frozen=True)
class Point:
    """One decoder after one part of its training, on one set of prompts.

    Attributes:
        prompts, model, part: as in the folder's name; `prompts` may be a form of the descriptive ones.
        folder: the samples.
        words: what the classifier sees in each picture, as `eval.metrics.scoring.describe` has it.
        scores: (N,) for each name of `eval.metrics.scoring.ATTRIBUTES` and for "clip_score"; nan where nothing is said.
    """

    prompts: str
    model: str
    part: int
    folder: SampleFolder = field(repr=False)
    words: list[dict[str, Any]] = field(repr=False)
    scores: Mapping[str, np.ndarray] = field(repr=False)

    def summary(self, draws: int) -> dict[str, Any]:
        """JSON-ready: intervals over prompts of every score."""
        resampler = Resampler(self.folder.caption_index, draws, 0)
        found = {
            name: as_json(resampler.mean(values) if name == "clip_score" else resampler.share(values))
            for name, values in self.scores.items()
        }
        return {"prompts": self.prompts, "model": self.model, "part": self.part, "n": len(self.folder), **found}


def folders(run: Path) -> dict[tuple[str, str, int], Path]:
    """(prompts, model, part) -> sample folder, of those that the run has."""
    found: dict[tuple[str, str, int], Path] = {}
    for path in sorted((run / "samples").glob("*/manifest.jsonl")):
        named = NAME.fullmatch(path.parent.name)
        if named and named["model"] in MODELS:
            found[named["prompts"], named["model"], int(named["part"])] = path.parent
    order = [*PROMPTS]
    return dict(sorted(found.items(), key=lambda item: (_place(item[0][0], order), item[0][0], item[0][2])))


def _place(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)


def judge(key: tuple[str, str, int], path: Path, judges: Judges, cache: Path) -> Point:
    """Looks at a folder's pictures.

    A prompt that was reworded is judged as it was before: by what it said, and by the CLIP score with its own words.
    """
    folder = SampleFolder.open(path)
    seen = look(folder, judges, cache=cache)
    assert judges.classifier is not None and judges.clip is not None and seen.classes is not None
    words = describe(seen.classes, judges.classifier.classifier.attributes)
    scores = dict(score_all(words, [record["mentioned"] for record in folder.records]))
    texts = [str(record.get("prompt", record["caption"])) for record in folder.records]
    scores["clip_score"] = clip_score(seen.features["clip"], judges.clip.encode_text(texts).numpy())
    assert set(ATTRIBUTES) < set(scores)
    return Point(*key, folder, words, scores)


def final(points: Mapping[tuple[str, str, int], Point], prompts: str, model: str) -> Point | None:
    """The point of a decoder at the end of its training."""
    parts = [part for (other, name, part) in points if (other, name) == (prompts, model)]
    return points[prompts, model, max(parts)] if parts else None


def check_same_scenes(first: Point, second: Point) -> None:
    """Refuse two folders whose pictures cannot be paired, scene by scene; of the same prompts also word by word.

    Raises:
        InputError: names them.
    """
    same = np.array_equal(first.folder.caption_index, second.folder.caption_index)
    if same and first.prompts == second.prompts:
        texts = [[record["caption"] for record in point.folder.records] for point in (first, second)]
        same = texts[0] == texts[1]
    if not same:
        raise InputError(
            f"{first.folder.path} and {second.folder.path} are compared prompt by prompt, but hold pictures of "
            "different prompts, or in another order: draw both from the same prompts"
        )
