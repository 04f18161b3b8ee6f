"""Sweeps: the same captions and noise under many settings. What `unclip sweep` wrote, read for tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.protocol import check_protocols, require_keys
from eval.records import check_record, check_row
from eval.samples.drawn import settings_of
from eval.tables.main import CONDITIONS, Cell, Table, label, number
from eval.untrusted import read_json, reason
from eval.words import counted

FOLDER = "sweeps"
METRICS = "metrics.json"
POINT_KEYS = ("condition", "settings", "evaluations", "frechet", "folder")
IMAGE_POINT_KEYS = ("clip_score",)
PROTOCOL_KEYS = ("n", "captions", "per_caption", "level", "bootstrap", "reference_n")
IMAGE_PROTOCOL_KEYS = ("extractor", "extractor_dim", "size", "reference", "reference_digest")
"""What tables and figures of points are made of."""
IMAGE_COLUMNS = {
    "frechet": ("Frechet ↓", 2),
    "clip_score": ("CLIP score ↑", 3),
    "precision": ("precision ↑", 2),
    "recall": ("recall ↑", 2),
    "diversity": ("diversity", 2),
    "aesthetic": ("aesthetic ↑", 2),
}
EMBEDDING_COLUMNS = {
    "frechet": ("Frechet ↓", 4),
    "cosine_true": ("cosine to true ↑", 3),
    "finds_own": ("finds own z_i ↑", 3),
    "cosine_text": ("cosine to z_t", 3),
    "diversity": ("diversity", 3),
    "seconds": ("seconds a z_i", 4),
}


SAMPLES_FIXED = "over real images (binomial), for these samples; too narrow, measure again"  # of rows that do not say


@dataclass(frozen=True)
class Sweep:
    """One sweep of a run.

    Attributes:
        name: of its file.
        title: for tables and figures.
        axis: the setting, or "evaluations", that stands on a figure's x axis.
        space: "images", or "embeddings" for priors judged without a decoder.
        points: rows of metrics with "condition", "settings", "evaluations" (of networks, for one sample), "folder".
        missing: conditions that were asked for and that the run has no stages for.
    """

    name: str
    title: str
    axis: str
    space: str
    points: list[dict[str, Any]]
    missing: list[str]

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """Reads a file that `unclip sweep` wrote.

        Raises:
            InputError: damaged, or its points were measured by different protocols.
        """
        again = f"delete {path} and {path.with_suffix('')}, and run `unclip sweep` again"
        try:
            content = read_json(path)
            fields = ("name", "title", "axis", "space", "points", "missing")
            sweep = cls(**{key: content[key] for key in fields})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot read the sweep {path} ({reason(error)}); delete it and run `unclip sweep` again"
            ) from error
        kinds = {"name": str, "title": str, "axis": str, "space": str, "points": list, "missing": list}
        for key, kind in kinds.items():
            if not isinstance(getattr(sweep, key), kind):
                raise InputError(f"cannot read the sweep {path} ({key} is no {kind.__name__}); {again}")
        check_record(path, {key: getattr(sweep, key) for key in kinds if key != "points"})
        for k, point in enumerate(sweep.points):
            keys = POINT_KEYS if sweep.space == "embeddings" else (*POINT_KEYS, *IMAGE_POINT_KEYS)
            of_protocol = PROTOCOL_KEYS if sweep.space == "embeddings" else (*PROTOCOL_KEYS, *IMAGE_PROTOCOL_KEYS)
            require_keys(f"{path}, point {k + 1},", point, keys, of_protocol, again)
            check_row(f"{path}, point {k + 1}", point)
        if sweep.points:
            check_protocols(sweep.points, way_out=again)
        return sweep

    @property
    def conditions(self) -> list[str]:
        """The conditions that were measured, in the order of the main table."""
        found = {point["condition"] for point in self.points}
        known = [name for name in CONDITIONS if name in found]
        return known + sorted(found - set(known))

    def of(self, condition: str) -> list[dict[str, Any]]:
        """The points of a condition, in the order of the sweep."""
        return [point for point in self.points if point["condition"] == condition]

    def x(self, point: Mapping[str, Any]) -> Any:
        """The position of a point on the axis; None if it has no such setting."""
        return point["evaluations"] if self.axis == "evaluations" else point["settings"].get(self.axis)


def read_sweeps(run: Path) -> dict[str, Sweep]:
    """The sweeps of a run folder by name."""
    return {path.stem: Sweep.load(path) for path in sorted((run / FOLDER).glob("*.json"))}


AS_TRAINED = "as trained"


def point_text(point: Mapping[str, Any]) -> str:
    """A point's settings in words, as `settings_text`; without any, "as trained (ddim, 8 steps, guidance 1.5)"."""
    stages = {name: text for name, stage in (point.get("drawn") or {}).items() if (text := settings_of(stage))}
    if point["settings"] or not stages:
        return settings_text(point["settings"])
    told = [text if len(stages) == 1 else f"{name}: {text}" for name, text in stages.items()]
    return f"{AS_TRAINED} ({'; '.join(told)})"


def sampler_name(point: Mapping[str, Any]) -> str:
    """The decoder's sampler at a point: "ddim"; "as trained (ddim)" where the point does not set it."""
    if "decoder.name" in point["settings"]:
        return str(point["settings"]["decoder.name"])
    name = (point.get("drawn") or {}).get("decoder", {}).get("sampler")
    return AS_TRAINED if name is None else f"{AS_TRAINED} ({name})"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in few words: "guidance 1.5, steps 8"; of several stages, those but the decoder are named.

    The names of stored points are made of it, so it does not change.
    """
    words = {"guidance_scale": "guidance", "name": "sampler", "candidates": "best of"}
    parts = []
    several = len({key.partition(".")[0] for key in settings}) > 1
    for key, value in settings.items():
        stage, _, field = key.partition(".")
        name = words.get(field, field)
        parts.append(f"{f'{stage} {name}' if several and stage != 'decoder' else name} {value}")
    return ", ".join(parts) or AS_TRAINED


def accuracy_of(point: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The share of samples with all that their caption mentions, where there is ground truth."""
    found: Mapping[str, float] | None = (point.get("accuracy") or {}).get("all")
    return found


def sweep_table(sweep: Sweep) -> Table:
    """All points with their numbers."""
    columns = IMAGE_COLUMNS if sweep.space == "images" else EMBEDDING_COLUMNS
    columns = {key: value for key, value in columns.items() if any(point.get(key) for point in sweep.points)}
    accuracy = any(accuracy_of(point) for point in sweep.points)
    body = []
    for condition in sweep.conditions:
        for point in sweep.of(condition):
            cells = [
                Cell(label(condition)),
                Cell(point_text(point)),
                Cell(str(point["evaluations"] or "–")),
            ]
            cells += [number(point.get(key), digits) for key, (_, digits) in columns.items()]
            body.append([*cells, number(accuracy_of(point), 2)] if accuracy else cells)
    heads = ["condition", "settings", "evals", *(head for head, _ in columns.values())]
    return Table(sweep.title, [*heads, "all right ↑"] if accuracy else heads, body, notes(sweep))


def notes(sweep: Sweep) -> list[str]:
    """The protocol of a sweep in sentences, and what is missing."""
    if not sweep.points:
        return ["no point has been measured"]
    protocol = sweep.points[0]["protocol"]
    said = [
        f"n = {protocol['n']} a point: {counted(protocol['captions'], 'caption')},"
        f" {counted(protocol['per_caption'], 'sample')} each, the"
        f" same noise at every point; {protocol['level']:.0%} intervals over captions, {protocol['bootstrap']} draws."
    ]
    if sweep.space == "images":
        said.append(
            f"Frechet distance, precision, recall: {protocol['extractor']}, {protocol['extractor_dim']} features,"
            f" against {protocol['reference_n']} real images ({protocol['reference']},"
            f" {protocol['reference_digest']}); both of {protocol['size'][0]} px."
        )
        if any(point.get("recall") for point in sweep.points):
            said.append(f"Intervals of recall: {protocol.get('recall_interval', SAMPLES_FIXED)}.")
    else:
        said.append(
            f"Embeddings are judged without a decoder, against {protocol['reference_n']} true ones, those of the"
            " captions' own images among them: distances are a little too small, and for all points alike."
        )
        if any(point.get("finds_own") for point in sweep.points):
            said.append(
                "Finds own z_i: how often the true z_i of the sample's own image is the nearest, among those of"
                f" {protocol['candidates']} images."
            )
    estimated = sorted({point["score_statistics"] for point in sweep.points if point.get("score_statistics")})
    if estimated:
        said.append(
            f"Analytic samplers: statistics of the score from {estimated[0]} of the real images, with their captions."
        )
    said += sorted({warning for point in sweep.points for warning in point.get("warnings") or []})
    said += [f"{label(name)}: the run has no such stages." for name in sweep.missing]
    return said


def footer(sweep: Sweep, shown: Sequence[str] = ()) -> str:
    """The protocol of a sweep in one line for a figure.

    Args:
        sweep: the points.
        shown: what the figure shows, of "clip_score" and "recall", whose judge and intervals are then named.
    """
    if not sweep.points:
        return ""
    protocol = sweep.points[0]["protocol"]
    said = [f"n = {protocol['n']} a point ({protocol['captions']} captions)"]
    if sweep.space == "images":
        said.append(
            f"{protocol['extractor']} against {protocol['reference_n']} real images"
            f" ({protocol['reference']}, {protocol['reference_digest']}) of {protocol['size'][0]} px"
        )
        if "clip_score" in shown and protocol.get("clip"):
            said.append(f"CLIP score by {protocol['clip']}")
    else:
        said.append(f"embeddings, without a decoder, against {protocol['reference_n']} true ones")
    said.append(f"bars: {protocol['level']:.0%} bootstrap intervals over captions, {protocol['bootstrap']} draws")
    if "recall" in shown:
        said.append(f"of recall: {protocol.get('recall_interval', SAMPLES_FIXED)}")
    return "; ".join(said) + "."
