"""The statements of DALL-E 3's section 3 as differences between two decoders, with intervals and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.captions.models import LABELS, PROMPTS, REAL
from eval.captions.points import Point, check_same_scenes, final
from eval.metrics.bootstrap import Interval, Resampler, as_json
from eval.tables.seeds import chance, holm, t_interval
from eval.tables.tabular import Cell, Table, number

Points = Mapping[tuple[str, str, int], Point]
NAMES = {"clip_score": "CLIP score x 100", "all": "all that is said"}


class Side(NamedTuple):
    """A decoder on prompts; after a part of its training, or at its end."""

    prompts: str
    model: str
    part: int | None = None


class Gap(NamedTuple):
    """By how much the first scores higher than the second."""

    better: Side
    worse: Side

    @property
    def label(self) -> str:
        """Such as "95 % short synthetic − ground truth only, ground-truth prompts"."""
        (prompts, a, part), (other, b, _) = self
        when = "" if part is None else f", after part {part} of 3 of training"
        if prompts == other:
            return f"{LABELS[a]} − {LABELS[b]}, {PROMPTS[prompts]}{when}"
        return f"{PROMPTS[prompts]} − {PROMPTS[other]}, {LABELS[a]}{when}"


class Claim(NamedTuple):
    """A statement that one side scores higher than another.

    Attributes:
        paper: what the paper says; "" for a question that it does not ask.
        gap: the two sides.
        metric: "clip_score" or a name of `eval.metrics.scoring.ATTRIBUTES`.
        beyond: another gap, which `gap` is larger than.
    """

    paper: str
    gap: Gap
    metric: str
    beyond: Gap | None = None

    @property
    def label(self) -> str:
        """The gap in words."""
        return self.gap.label + (f", beyond {PROMPTS[self.beyond.better.prompts]}" if self.beyond else "")


def _models(prompts: str, better: str, worse: str, part: int | None = None) -> Gap:
    return Gap(Side(prompts, better, part), Side(prompts, worse, part))


def _both(paper: str, gap: Gap, beyond: Gap | None = None) -> list[Claim]:
    return [Claim(paper, gap, metric, beyond) for metric in ("clip_score", "all")]


TRUTH, SHORT, LONG = "ground_truth", "short_95", "descriptive_95"
SLIGHTLY = "both synthetic models are slightly better on ground-truth prompts (3.3)"
BETTER = "both synthetic models are better on descriptive prompts (3.3)"
MARKEDLY = "they are markedly better there: by more than on ground-truth prompts (3.3)"
HIGHER = "all models score higher on descriptive prompts (figure 4)"
FAR = "65 % is behind half way (3.4); here after two thirds"
MORE = "more synthetic captions are always better (3.4)"
LENGTHENED = "short prompts should be lengthened for a model of long captions (3.5)"
CLAIMS: tuple[Claim, ...] = (
    *(c for m in (SHORT, LONG) for c in _both(SLIGHTLY, _models("ground_truth", m, TRUTH))),
    *(c for p in ("descriptive", "synthetic") for m in (SHORT, LONG) for c in _both(BETTER, _models(p, m, TRUTH))),
    *(
        claim
        for prompts in ("descriptive", "synthetic")
        for model in (SHORT, LONG)
        for claim in _both(MARKEDLY, _models(prompts, model, TRUTH), _models("ground_truth", model, TRUTH))
    ),
    *(
        Claim(HIGHER if model != REAL else "", Gap(Side(prompts, model), Side("ground_truth", model)), "clip_score")
        for prompts in ("descriptive", "synthetic")
        for model in (TRUTH, SHORT, LONG, REAL)
    ),
    *_both(FAR, _models("ground_truth", "descriptive_80", "descriptive_65", 2)),
    *(
        claim
        for paper, prompts in ((MORE, "ground_truth"), ("", "descriptive"))
        for more, fewer in ((80, 65), (90, 80), (95, 90))
        for claim in _both(paper, _models(prompts, f"descriptive_{more}", f"descriptive_{fewer}"))
    ),
    *(c for p in ("ground_truth", "descriptive") for c in _both("", _models(p, "descriptive_100", LONG))),
    *(c for p in ("ground_truth", "descriptive") for c in _both("", _models(p, "true_95", LONG))),
    # What a captioner's errors do to a decoder that is trained on its captions, by attribute.
    *(
        Claim("", _models("descriptive", "true_95", LONG), name)
        for name in ("colour", "shape", "size", "background", "relation")
    ),
    *(
        claim
        for model in (LONG, "descriptive_100")
        for claim in _both(LENGTHENED, Gap(Side("lengthened", model), Side("short", model)))
    ),
)


def differences(points: Points, draws: int) -> list[dict[str, Any]]:
    """Every claim that the points can answer, with the difference of its sides, paired by scene.

    Returns:
        {"paper", "label", "metric", "difference": {"value", "low", "high"}, "n"} each, JSON-ready.

    Raises:
        InputError: the two sides of a claim were drawn from other prompts.
    """
    found = []
    for claim in CLAIMS:
        gaps = [gap_of(points, gap, claim.metric) for gap in (claim.gap, claim.beyond) if gap is not None]
        there = [gap for gap in gaps if gap is not None]
        if len(there) < len(gaps):
            continue
        (values, point), *beyond = there
        for others, other in beyond:
            check_same_scenes(point, other)
            values = values - others
        difference = as_json(Resampler(point.folder.caption_index, draws, 0).mean(values))
        if difference is not None:
            n = int((~np.isnan(values)).sum())
            head = {"paper": claim.paper, "label": claim.label, "metric": claim.metric}
            found.append({**head, "difference": difference, "n": n})
    return found


def gap_of(points: Points, gap: Gap, metric: str) -> tuple[np.ndarray, Point] | None:
    """(N,) differences, nan where a prompt asks nothing, and the better side; None where a side was not drawn."""
    better, worse = (
        final(points, side.prompts, side.model)
        if side.part is None
        else points.get((side.prompts, side.model, side.part))
        for side in gap
    )
    if better is None or worse is None:
        return None
    check_same_scenes(better, worse)
    return better.scores[metric] - worse.scores[metric], better


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


def corrected(claims: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The differences over replicas that are sure by Holm's rule, which is applied to each statement by itself."""
    found = []
    for paper in dict.fromkeys(claim["paper"] for claim in claims):
        own = [claim for claim in claims if claim["paper"] == paper]
        stays = holm([chance(claim["values"]) for claim in own])
        found += [claim for claim, stay in zip(own, stays, strict=True) if stay]
    return found


def claims_table(claims: Sequence[Mapping[str, Any]], over: str) -> Table:
    """The statements, the differences, the verdicts.

    Args:
        claims: of `differences` or `over_seeds`.
        over: what the intervals are over, in words.
    """
    body = []
    for claim in claims:
        scale, digits = (100, 2) if claim["metric"] == "clip_score" else (1, 3)
        shown = {key: scale * value for key, value in claim["difference"].items()}
        body.append(
            [
                Cell(claim["paper"] or "(not asked)"),
                Cell(claim["label"]),
                Cell(NAMES.get(claim["metric"], claim["metric"])),
                number(shown, digits),
                Cell(verdict(claim)),
            ]
        )
    notes = [
        f"Intervals: 95 %, over {over}. Not decided: the interval holds 0. Were no difference real, about"
        f" {0.05 * len(claims):.1f} of these {len(claims)} rows would be decided by chance."
    ]
    if all("values" in claim for claim in claims):
        kept = [f"{c['label']} ({NAMES.get(c['metric'], c['metric'])}): {verdict(c)}" for c in corrected(claims)]
        notes.append(f"With Holm's correction within each statement there stay: {'; '.join(kept) or 'none'}.")
    else:
        notes.append("One training seed: another training may decide otherwise.")
    return Table("The paper's statements", ["the paper", "difference", "metric", "ours", "verdict"], body, notes)
