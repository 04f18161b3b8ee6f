"""The study as tables: every decoder on every kind of prompt, and prompts in other forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.captions.models import MODELS, PROMPTS
from eval.tables.tabular import DASH, Cell, Table, number

ACCURACIES = ("colour", "shape", "size", "background", "relation", "all")
FORMS = {
    "descriptive": "as it is",
    "form_leading_space": "a leading space",
    "form_upper_case": "UPPER CASE",
    "form_capital": "Capital first",
    "form_full_stop": "a full stop",
    "form_no_article": "without articles",
    "form_unrelated_word": '"photo" in front',
}
"""Prompts of the study in other forms -> how tables call them; the first is the form that they are compared with."""


def points_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """The end of every decoder's training, by prompts."""
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for point in points:
        key = (point["prompts"], point["model"])
        if point["prompts"] in PROMPTS and (key not in last or last[key]["part"] < point["part"]):
            last[key] = point
    order = [(p, m) for p in PROMPTS for m in MODELS if (p, m) in last]
    body = [
        [
            Cell(PROMPTS[prompts]),
            Cell(MODELS[model].label),
            Cell(str(last[prompts, model]["n"])),
            number(_times(last[prompts, model]["clip_score"], 100), 2),
            *(number(last[prompts, model][name], 3) for name in ACCURACIES),
        ]
        for prompts, model in order
    ]
    heads = ["prompts", "trained on", "n", "CLIP score x 100", *(f"{name} ↑" for name in ACCURACIES)]
    notes = [
        "Accuracy of what the prompt says, by the classifier; all: everything that it says is right. In brackets: 95 %"
        " intervals over prompts. A reworded prompt is judged by what it said before."
    ]
    return Table("Decoders by their captions", heads, body, notes)


def _times(interval: Mapping[str, float] | None, factor: float) -> dict[str, float] | None:
    return None if interval is None else {key: factor * value for key, value in interval.items()}


def forms_table(points: Sequence[Mapping[str, Any]]) -> Table | None:
    """Accuracy of all that is said under changes of a prompt's form; None without such prompts."""
    by_key = {(p["prompts"], p["model"]): p for p in sorted(points, key=lambda p: p["part"]) if p["prompts"] in FORMS}
    if not any(prompts != "descriptive" for prompts, _ in by_key):
        return None
    models = [name for name in MODELS if any((form, name) in by_key for form in FORMS if form != "descriptive")]
    body = []
    for form, label in FORMS.items():
        cells = [by_key.get((form, model)) for model in models]
        if any(cells):
            body.append([Cell(label), *(Cell(DASH) if c is None else number(c["all"], 3) for c in cells)])
    notes = [
        "Share of pictures in which all is right that a descriptive prompt says, when its form changes and its meaning"
        " does not. The tokeniser of words folds case and spaces, so that those two rows repeat the first by"
        " construction; a full stop makes its last word another token."
    ]
    return Table("Changes of form", ["prompt", *(MODELS[name].label for name in models)], body, notes)
