"""The captioner's mistakes in pictures: which wrong pictures a wrong caption explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.captions.compare import ATTRIBUTES, compare, wrong_attributes
from eval.captions.models import MODELS
from eval.captions.points import Point
from eval.metrics.bootstrap import Resampler, as_json
from eval.metrics.scoring import score
from eval.tables.tabular import Cell, Table, number


def trace(point: Point, scenes: Mapping[int, Mapping[str, Any]], draws: int) -> list[dict[str, Any]]:
    """For pictures that were drawn from a captioner's captions of known scenes, by attribute.

    A picture is wrong in an attribute if it does not show what is true of the scene; the caption is, if it claims
    something else or invents it. Left out is not wrong: then the picture is the decoder's guess.

    Args:
        point: the pictures; what each caption claims is in their manifest.
        scenes: caption_index -> what is true of the scene that was captioned.
        draws: of the intervals.

    Returns:
        For each attribute, and "any" for all together, {"attribute", "pictures", "wrong_pictures", "wrong_captions",
        "explained", "followed"}: shares as {"value", "low", "high"} over prompts, or None. "explained" is the share of
        wrong pictures whose caption is wrong in that attribute; "followed" the share of wrong captions whose picture
        shows what the caption says.
    """
    rows = []
    for seen, record in zip(point.words, point.folder.records, strict=True):
        truth, said = scenes[record["caption_index"]], record["mentioned"]
        wrong = wrong_attributes(compare(said, truth))
        by_truth, by_caption = score(seen, truth), score(seen, said)
        rows.append(
            {name: (_below_one(by_truth[name]), name in wrong, not _below_one(by_caption[name])) for name in ATTRIBUTES}
        )
    found = [_summary(name, [row[name] for row in rows], point, draws) for name in ATTRIBUTES]
    together = [
        (any(row[n][0] for n in ATTRIBUTES), any(row[n][1] for n in ATTRIBUTES), all(row[n][2] for n in ATTRIBUTES))
        for row in rows
    ]
    return [*found, _summary("any", together, point, draws)]


def _below_one(value: float) -> bool:
    return bool(not np.isnan(value) and value < 1)


def _summary(name: str, rows: list[tuple[bool, bool, bool]], point: Point, draws: int) -> dict[str, Any]:
    picture, caption, followed = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    resampler = Resampler(point.folder.caption_index, draws, 0)
    return {
        "model": point.model,
        "attribute": name,
        "pictures": len(rows),
        "wrong_pictures": as_json(resampler.share(picture)),
        "wrong_captions": as_json(resampler.share(caption)),
        "explained": as_json(resampler.share(np.where(picture == 1, caption, np.nan))),
        "followed": as_json(resampler.share(np.where(caption == 1, followed, np.nan))),
    }


def trace_table(rows: list[Mapping[str, Any]]) -> Table:
    """A table of the results of `trace` for several decoders."""
    columns = ("wrong_pictures", "wrong_captions", "explained", "followed")
    body = [
        [Cell(MODELS[row["model"]].label), Cell(row["attribute"]), *(number(row[name], 3) for name in columns)]
        for row in rows
    ]
    heads = ["trained on", "attribute", "pictures wrong", "captions wrong", "explained", "followed"]
    notes = [
        "Pictures drawn from the captioner's captions of held-out scenes, judged by the true scenes.",
        "Explained: share of the wrong pictures whose caption is wrong in the same attribute. Followed: share of the"
        " wrong captions whose picture shows what the caption says.",
    ]
    return Table("Captioner's mistakes in pictures", heads, body, notes)
