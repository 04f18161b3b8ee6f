"""The statements of DALL-E 3's section 3 as differences between two decoders, with intervals and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.captions.models import MODELS, PROMPTS
from eval.captions.points import Point, final
from eval.errors import InputError
from eval.metrics.bootstrap import Interval, Resampler, as_json
from eval.tables.seeds import t_interval
from eval.tables.tabular import Cell, Table, number

Points = Mapping[tuple[str, str, int], Point]


@dataclass(frozen=True)
class Claim:
    """A statement that one side scores higher than another.

    Attributes:
        paper: what the paper says; "" for a question that it does not ask.
        better, worse: (prompts, model) of the two sides.
        metric: "clip_score" or "all".
    """

    paper: str
    better: tuple[str, str]
    worse: tuple[str, str]
    metric: str

    @property
    def label(self) -> str:
        """Such as "95 % short synthetic − ground truth only, ground-truth prompts"."""
        (prompts, a), (other, b) = self.better, self.worse
        if prompts == other:
            return f"{MODELS[a].label} − {MODELS[b].label}, {PROMPTS[prompts]}"
        return f"{PROMPTS[prompts]} − {PROMPTS[other]}, {MODELS[a].label}"


def _both(paper: str, better: str, worse: str, prompts: Sequence[str]) -> list[Claim]:
    metrics = ("clip_score", "all")
    return [Claim(paper, (p, better), (p, worse), metric) for p in prompts for metric in metrics]


SLIGHTLY = "both synthetic models slightly better on ground-truth prompts (3.3)"
MARKEDLY = "both synthetic models markedly better on descriptive prompts (3.3)"
MORE = "more synthetic captions are always better (3.4)"
CLAIMS: tuple[Claim, ...] = (
    *_both(SLIGHTLY, "short_95", "ground_truth", ["ground_truth"]),
    *_both(SLIGHTLY, "descriptive_95", "ground_truth", ["ground_truth"]),
    *_both(MARKEDLY, "short_95", "ground_truth", ["descriptive"]),
    *_both(MARKEDLY, "descriptive_95", "ground_truth", ["descriptive"]),
    *_both(MORE, "descriptive_80", "descriptive_65", ["ground_truth", "descriptive"]),
    *_both(MORE, "descriptive_90", "descriptive_80", ["ground_truth", "descriptive"]),
    *_both(MORE, "descriptive_95", "descriptive_90", ["ground_truth", "descriptive"]),
    *_both("", "descriptive_100", "descriptive_95", ["ground_truth", "descriptive"]),
    *_both("", "true_95", "descriptive_95", ["ground_truth", "descriptive"]),
    *(
        Claim("short prompts should be lengthened for a model of long captions (3.5)", *pair, metric)
        for model in ("descriptive_95", "descriptive_100")
        for pair in [(("lengthened", model), ("short", model))]
        for metric in ("clip_score", "all")
    ),
)


def differences(points: Points, draws: int) -> list[dict[str, Any]]:
    """Every claim that the points can answer, with the difference of its sides, paired by prompt.

    Returns:
        {"paper", "label", "metric", "difference": {"value", "low", "high"}, "n"} each, JSON-ready.

    Raises:
        InputError: the two sides of a claim were drawn from other prompts.
    """
    found = []
    for claim in CLAIMS:
        better, worse = final(points, *claim.better), final(points, *claim.worse)
        if better is None or worse is None:
            continue
        check_same_prompts(better, worse)
        gap = better.scores[claim.metric] - worse.scores[claim.metric]
        interval = as_json(Resampler(better.folder.caption_index, draws, 0).mean(gap))
        if interval is not None:
            n = int((~np.isnan(gap)).sum())
            found.append(
                {"paper": claim.paper, "label": claim.label, "metric": claim.metric, "difference": interval, "n": n}
            )
    return found


def check_same_prompts(first: Point, second: Point) -> None:
    """Refuse two folders whose pictures cannot be paired by prompt.

    Raises:
        InputError: names them.
    """
    if not np.array_equal(first.folder.caption_index, second.folder.caption_index):
        raise InputError(
            f"{first.folder.path} and {second.folder.path} are compared prompt by prompt, but hold pictures of "
            "different prompts, or in another order: draw both from the same prompts"
        )


def over_seeds(replicas: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The differences that all replicas have, as means with Student's interval over replicas."""
    by_name = [{(one["label"], one["metric"]): one for one in replica} for replica in replicas]
    found = []
    for key, first in by_name[0].items():
        if all(key in other for other in by_name):
            values = [float(other[key]["difference"]["value"]) for other in by_name]
            found.append({**first, "difference": as_json(t_interval(values)), "values": values})
    return found


def verdict(claim: Mapping[str, Any]) -> str:
    """Whether a difference bears a statement out: its interval has to leave out 0."""
    gap = Interval(**claim["difference"])
    if not (gap.low > 0 or gap.high < 0):
        return "not decided"
    if not claim["paper"]:
        return "higher" if gap.low > 0 else "lower"
    return "agrees" if gap.low > 0 else "disagrees"


NAMES = {"clip_score": "CLIP score x 100", "all": "all that is said"}


def claims_table(claims: Sequence[Mapping[str, Any]], over: str) -> Table:
    """The statements, the differences, the verdicts.

    Args:
        claims: of `differences` or `over_seeds`.
        over: what the intervals are over, in words.
    """
    body = []
    for claim in claims:
        scale = 100 if claim["metric"] == "clip_score" else 1
        shown = {key: scale * value for key, value in claim["difference"].items()}
        digits = 2 if claim["metric"] == "clip_score" else 3
        body.append(
            [
                Cell(claim["paper"] or "(not asked)"),
                Cell(claim["label"]),
                Cell(NAMES[claim["metric"]]),
                number(shown, digits),
                Cell(verdict(claim)),
            ]
        )
    notes = [
        f"Intervals: 95 %, over {over}. Not decided: the interval holds 0. With {len(claims)} rows about"
        f" {0.05 * len(claims):.1f} would be decided by chance were no difference real."
    ]
    return Table("The paper's statements", ["the paper", "difference", "metric", "ours", "verdict"], body, notes)
