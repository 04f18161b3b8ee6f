"""Tables: the main one of a run, the seconds of its stages, the probe of its CLIP; as Markdown and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.metrics.frechet import INCEPTION_DIM
from eval.metrics.frechet_interval import FEW_DRAWS, few_draws
from eval.metrics.scoring import ATTRIBUTES
from eval.protocol import check_protocols
from eval.samples.conditions import CONDITIONS, Row, in_order, label
from eval.samples.drawn import drawn_notes
from eval.tables.tabular import Cell, Table, number
from eval.words import counted

__all__ = ["CONDITIONS", "Cell", "Row", "Table", "in_order", "label", "number"]

PROBE_PAIRS = {"train_pairs": "fitted on", "test_pairs": "judged on"}
"""The numbers of pairs in the file of `unclip probe`, and their words in a note."""

CEILING = (
    "True z_i are a ceiling for priors in Frechet distance only. In accuracy and CLIP score a prior may be ahead, as "
    "it may draw a picture that is easier to judge than the real one."
)


def main_table(rows: Sequence[Row]) -> Table:
    """Conditions against metrics, each with its interval.

    Args:
        rows: rows of one protocol, in any order; conditions may be missing.

    Raises:
        InputError: rows of different protocols, so of different sample counts as well.
    """
    if not rows:
        return Table("Main table", ["condition"], [], ["nothing has been evaluated yet: `unclip evaluate`"])
    protocol = check_protocols(rows)
    rows = in_order(rows)
    accuracies = [name for name in ATTRIBUTES if any((row["accuracy"] or {}).get(name) for row in rows)]
    compared = protocol["reference_n"] is not None
    columns = ["condition", "n", *(["Frechet ↓"] if compared else [])]
    columns += ["FID ↓"] if any(row.get("fid") for row in rows) else []
    columns += ["CLIP score ↑"] if any(row["clip_score"] for row in rows) else []
    columns += [f"{name} ↑" for name in accuracies] + ["diversity"]
    body = []
    for row in rows:
        cells = [Cell(label(row["condition"])), Cell(str(row["n"]))]
        cells += [number(row["frechet"], 2)] if compared else []
        cells += [number(row.get("fid"), 2)] if "FID ↓" in columns else []
        cells += [number(row["clip_score"], 3)] if "CLIP score ↑" in columns else []
        cells += [number((row["accuracy"] or {}).get(name), 2) for name in accuracies]
        body.append([*cells, number(row["diversity"], 2)])
    return Table("Main table", columns, body, _notes(rows, protocol, bool(accuracies)))


def _notes(rows: Sequence[Row], protocol: Mapping[str, Any], accuracies: bool) -> list[str]:
    real_images = f"{protocol['reference_n']} real images ({protocol['reference_digest']})"
    from_file = protocol.get("frechet_reference")
    against = f"statistics of the real images {from_file}; what else needs real images: {real_images}"
    notes = [
        f"n = {protocol['n']} a row: {_captions(protocol)}."
        f" In brackets: {protocol['level']:.0%} bootstrap interval over"
        f" {'captions' if protocol.get('captioned', True) else 'pictures'}, {protocol['bootstrap']} draws"
        f"{_seed(protocol)}.",
    ]
    if protocol["reference_n"] is None:
        return notes + _pictures_notes(protocol) + drawn_notes(rows) + _judge_notes(rows, protocol, accuracies)
    notes += [
        f"Frechet distance: {protocol['extractor']}, {protocol['extractor_dim']} features, against"
        f" {against if from_file else real_images}. It depends on n and on the features:"
        " compare within this table only. Diversity: mean distance of a caption's samples, in the same features.",
    ]
    notes += _draws_notes(rows, protocol) + _pictures_notes(protocol) + drawn_notes(rows)
    notes += _judge_notes(rows, protocol, accuracies)
    inception = protocol["inception"]
    fid_file = protocol.get("fid_reference")
    fid_against = (
        f"statistics of the real images {fid_file}"
        if fid_file
        else real_images
        if from_file
        else "the same real images"
    )
    notes.append(inception if " is left out" in inception else f"FID: {inception}, against {fid_against}.")
    return notes


def _judge_notes(rows: Sequence[Row], protocol: Mapping[str, Any], accuracies: bool) -> list[str]:
    """By what pictures are judged, and what is to be said of rows."""
    notes = []
    if protocol["clip"]:
        notes.append(f"CLIP score: mean cosine by {protocol['clip']}, which no stage was conditioned on.")
    if accuracies:
        real = next((row for row in rows if row["condition"] == "real"), None)
        judged = _accuracy_text(real) if real else "not measured (no row of real images)"
        notes.append(f"Accuracy of what the caption mentions, by a classifier; its own, on real images: {judged}.")
        notes += [f"Intervals of accuracy: {protocol['share_interval']}."] if "share_interval" in protocol else []
    notes += [CEILING] if any(row["condition"] == "image_embedding" for row in rows) else []
    notes += [
        f"{row['condition']} shares {row['shared_with_reference']} of its {row['n']} images with the reference:"
        " its Frechet distance is too small."
        for row in rows
        if row.get("shared_with_reference")
    ]
    return notes + sorted({warning for row in rows for warning in row.get("warnings") or []})


def _captions(protocol: Mapping[str, Any]) -> str:
    if not protocol.get("captioned", True):
        return "pictures without captions"
    return f"{counted(protocol['captions'], 'caption')}, {counted(protocol['per_caption'], 'sample')} each"


def _seed(protocol: Mapping[str, Any]) -> str:
    return f" (seed {protocol['seed']})" if "seed" in protocol else ""


def _pictures_notes(protocol: Mapping[str, Any]) -> list[str]:
    """The size of the pictures, and how the extractor brings them to its own; older rows do not say."""
    if not protocol.get("size"):
        return []
    high, wide = protocol["size"]
    fitted = f"; those of other sizes were brought to it: {protocol['fit']}" if protocol.get("fit") else ""
    resized = protocol.get("resizing")
    seen = [f"For the network of the Frechet distance and of diversity they are resized: {resized}."] if resized else []
    return [f"All pictures have {wide} x {high} px{fitted}.", *seen]


def _draws_notes(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[str]:
    """Which intervals are of fewer draws than the protocol's, because each draw is costly."""
    by_dim = {"the Frechet distance": protocol["extractor_dim"]}
    if any(row.get("fid") for row in rows):
        by_dim["FID"] = INCEPTION_DIM
    few = [name for name, dim in by_dim.items() if few_draws(protocol["n"], dim, protocol["bootstrap"])]
    if not few:
        return []
    return [
        f"The intervals of {' and '.join(few)} are Student's, of the spread of {FEW_DRAWS} draws: at this n and with"
        " so many features each draw is costly."
    ]


def _accuracy_text(row: Row) -> str:
    known = {name: value for name, value in (row["accuracy"] or {}).items() if value}
    return ", ".join(f"{name} {value['value']:.3f}" for name, value in known.items()) or "no ground truth"


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """How long each stage took."""
    body = [[Cell(name), Cell(_clock(value))] for name, value in seconds.items()]
    note = f"in all {_clock(sum(seconds.values()))} of stages; some ran side by side"
    return Table("Time", ["stage", "h:mm:ss"], body, [note] if seconds else ["no stage has been recorded"])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def probe_table(probe: Mapping[str, float]) -> Table:
    """A table of the attributes that a linear probe reads from z_i; a note names the numbers of pairs."""
    numbers = {name: value for name, value in probe.items() if isinstance(value, int | float)}
    body = [[Cell(name), Cell(f"{value:.3f}")] for name, value in numbers.items() if name not in PROBE_PAIRS]
    said = ["Accuracy of a linear probe on z_i: what the embedding does not hold, no decoder can draw."]
    pairs = [f"{PROBE_PAIRS[name]} {numbers[name]:,.0f} pairs" for name in PROBE_PAIRS if name in numbers]
    said += [f"The probe was {', '.join(pairs)}."] if pairs else []
    return Table("CLIP probe", ["attribute", "accuracy"], body, said if body else ["no probe has been recorded"])
