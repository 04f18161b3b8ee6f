"""How pictures were drawn: sampler, steps and guidance of every stage, from manifests, and in words for tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.samples.conditions import label

STAGES = ("decoder", "upsampler", "prior")
FIELDS = ("sampler", "steps", "guidance", "candidates")
Drawn = dict[str, dict[str, Any]]


def drawn(records: Iterable[Mapping[str, Any]]) -> Drawn:
    """How the pictures of a folder were drawn.

    Args:
        records: manifest lines.

    Returns:
        stage -> {"sampler", "steps", "guidance", "candidates"}, of which those that the manifest names; a list of all
        values where lines differ. {} for pictures that no stage drew, such as real ones.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for record in records:
        for field in FIELDS:
            named = record.get(field)
            for stage, value in (named if isinstance(named, dict) else {}).items():
                values = found.setdefault(stage, {}).setdefault(field, [])
                if value is not None and value not in values:
                    values.append(value)
    told = {
        stage: {field: values[0] if len(values) == 1 else values for field, values in fields.items() if values}
        for stage, fields in sorted(found.items(), key=lambda item: _place(item[0]))
    }
    return {stage: fields for stage, fields in told.items() if fields}


def _place(stage: str) -> tuple[int, str]:
    return STAGES.index(stage) if stage in STAGES else len(STAGES), stage


def settings_of(stage: Mapping[str, Any]) -> str:
    """The settings of a stage in words: "ddim, 16 steps, guidance 2.5, best of 2", "ddim, 1 step"."""
    forms = {"sampler": "{}", "steps": "{} step" if stage.get("steps") == 1 else "{} steps", "guidance": "guidance {}"}
    forms["candidates"] = "best of {}"
    return ", ".join(forms[field].format(_text(stage[field])) for field in FIELDS if stage.get(field) is not None)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the pictures of all rows were drawn: "decoder: ddim, 16 steps, guidance 2.5; upsampler: ...".

    Args:
        rows: with "condition" and "drawn"; those without (or {}) are left out.

    Returns:
        Each stage's settings, with the rows that they are of where not all rows share them; "" where none says.
    """
    told = {row["condition"]: row["drawn"] for row in rows if row.get("drawn")}
    stages = sorted({stage for found in told.values() for stage in found}, key=_place)
    parts = []
    for stage in stages:
        whose: dict[str, list[str]] = {}
        for condition, found in told.items():
            if stage in found:
                whose.setdefault(settings_of(found[stage]), []).append(label(condition))
        for text, names in whose.items():
            parts.append(f"{stage}: {text}" if len(names) == len(told) else f"{stage} ({', '.join(names)}): {text}")
    return "; ".join(parts)


def drawn_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """`sentence` as a note of a table, and which rows do not say; none where no row does, as of an older release."""
    said = sentence(rows)
    silent = [label(row["condition"]) for row in rows if "drawn" not in row]
    if not said:
        return []
    more = f" Not recorded (measure again): {', '.join(silent)}." if silent else ""
    return [f"How the pictures were drawn: {said}.{more}"]
