"""The captioner's mistakes in pictures: which wrong pictures a wrong caption explains, and which it causes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.captions.compare import ATTRIBUTES, compare, wrong_attributes
from eval.captions.models import MODELS
from eval.captions.points import Point, check_same_scenes
from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.scoring import score
from eval.tables.tabular import Cell, Table, number

SHARES = ("wrong_pictures", "wrong_captions", "explained", "caused", "followed", "followed_by_chance")


class Case(NamedTuple):
    """One attribute of one scene; "other" is the picture that was drawn of the scene from its true caption.

    Attributes:
        wrong: the picture does not show what is true.
        caption: the caption claims something that is not true. Left out is not wrong.
        both: the picture and the caption are wrong in one and the same attribute.
        follows: the picture shows what the caption claims.
        other_both, other_follows: the same of the other picture; nan without one.
    """

    wrong: float
    caption: float
    both: float
    follows: float
    other_both: float
    other_follows: float


NOT_ASKED = Case(*[float("nan")] * 6)


def trace(
    point: Point, scenes: Mapping[int, Mapping[str, Any]], draws: int, other: Point | None = None
) -> list[dict[str, Any]]:
    """For pictures that were drawn from a captioner's captions of known scenes, by attribute.

    A scene without the attribute (the relation of a lone object) does not count for it.

    Args:
        point: the pictures; what each caption claims is in their manifest.
        scenes: caption_index -> what is true of the scene that was captioned.
        draws: of the intervals.
        other: pictures of the same scenes by the same decoder, drawn from true descriptive captions.

    Returns:
        For each attribute, and "any" for all together, {"model", "attribute", "pictures", **shares}; the shares, as
        {"value", "low", "high"} over prompts or None, are
            wrong_pictures, wrong_captions: of all.
            explained: wrong pictures whose caption is wrong in the same attribute, of the wrong pictures.
            caused: explained pictures, less those that are as wrong after the true captions of the same scenes, of the
                wrong pictures. None without `other`.
            followed: wrong captions whose picture shows what the caption claims, of the wrong captions.
            followed_by_chance: the same of the pictures that were drawn from the true captions. None without `other`.

    Raises:
        InputError: `other` has other scenes.
    """
    if other is not None:
        check_same_scenes(point, other)
    rows = []
    for place, (seen, record) in enumerate(zip(point.words, point.folder.records, strict=True)):
        truth, said = scenes[record["caption_index"]], record["mentioned"]
        rows.append(_cases(truth, said, seen, None if other is None else other.words[place]))
    found = [_summary(name, [row[name] for row in rows], point, draws) for name in ATTRIBUTES]
    return [*found, _summary("any", [_any(row) for row in rows], point, draws)]


def _cases(
    truth: Mapping[str, Any], said: Mapping[str, Any], seen: Mapping[str, Any], other: Mapping[str, Any] | None
) -> dict[str, Case]:
    wrong = wrong_attributes(compare(said, truth))
    by_truth, by_caption = score(seen, truth), score(seen, said)
    others = (score(other, truth), score(other, said)) if other is not None else None
    found = {}
    for name in ATTRIBUTES:
        if np.isnan(by_truth[name]):
            found[name] = NOT_ASKED
            continue
        picture, caption = by_truth[name] < 1, name in wrong
        beside = (float("nan"), float("nan"))
        if others is not None:
            beside = (float(others[0][name] < 1 and caption), float(not others[1][name] < 1))
        found[name] = Case(picture, caption, picture and caption, not by_caption[name] < 1, *beside)
    return found


def _any(cases: Mapping[str, Case]) -> Case:
    """Of all attributes together: something is wrong; everything that the caption claims is shown."""
    asked = [case for case in cases.values() if not np.isnan(case.wrong)]
    wrong, caption, both, follows, other_both, other_follows = zip(*asked, strict=True)
    return Case(max(wrong), max(caption), max(both), min(follows), max(other_both), min(other_follows))


def _summary(name: str, cases: Sequence[Case], point: Point, draws: int) -> dict[str, Any]:
    columns = (np.array(column, np.float64) for column in zip(*cases, strict=True))
    wrong, caption, both, follows, other_both, other_follows = columns
    resampler = Resampler(point.folder.caption_index, draws, 0)
    gained = both - other_both
    asked = ~np.isnan(gained)
    caused = resampler.ratio(np.where(asked, gained, 0), np.where(asked, wrong, 0))
    return {
        "model": point.model,
        "attribute": name,
        "pictures": int((~np.isnan(wrong)).sum()),
        "wrong_pictures": as_json(resampler.share(wrong)),
        "wrong_captions": as_json(resampler.share(caption)),
        "explained": as_json(resampler.share(np.where(wrong == 1, both, np.nan))),
        "caused": as_json(caused),
        "followed": as_json(resampler.share(np.where(caption == 1, follows, np.nan))),
        "followed_by_chance": as_json(resampler.share(np.where(caption == 1, other_follows, np.nan))),
    }


def trace_table(rows: Sequence[Mapping[str, Any]], over: str) -> Table:
    """A table of the results of `trace` for several decoders.

    Args:
        rows: of `trace`, or their means over replicas.
        over: what the intervals are over, in words.
    """
    body = [
        [
            Cell(MODELS[row["model"]].label),
            Cell(row["attribute"]),
            Cell(str(row["pictures"])),
            *(number(row.get(name), 3) for name in SHARES),
        ]
        for row in rows
    ]
    heads = ["trained on", "attribute", "n", "pictures wrong", "captions wrong", "explained", "caused", "followed"]
    notes = [
        "Pictures drawn from the captioner's captions of held-out scenes, judged by the true scenes. Scenes without the"
        f" attribute do not count. In brackets: 95 % intervals over {over}.",
        "Explained: share of the wrong pictures whose caption is wrong in the same attribute. Caused: these, less the"
        " pictures that are as wrong when the same scenes are drawn from their true captions; as a share of all wrong"
        " pictures.",
        "Followed: share of the wrong captions whose picture shows what the caption says. By chance: the same of the"
        " pictures that were drawn from the true captions.",
    ]
    return Table("Captioner's mistakes in pictures", [*heads, "by chance"], body, notes)
