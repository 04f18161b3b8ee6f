"""The study as tables: every decoder on every kind of prompt, and prompts in other forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.captions.claims import Gap, Points, Side, gap_of
from eval.captions.models import LABELS, MODELS, PROMPTS
from eval.metrics.bootstrap import Resampler, as_json
from eval.tables.tabular import Cell, Table, number

ACCURACIES = ("colour", "shape", "size", "background", "relation", "all")
AS_IT_IS = "descriptive"
FORMS = {
    AS_IT_IS: "as it is",
    "form_leading_space": "a leading space",
    "form_upper_case": "UPPER CASE",
    "form_capital": "Capital first",
    "form_full_stop": "a full stop",
    "form_no_article": "without articles",
    "form_unrelated_word": '"photo" in front',
}
"""Prompts of the study in other forms -> how tables call them; the first is the form that they are compared with."""


def points_table(points: Sequence[Mapping[str, Any]], over: str) -> Table:
    """The end of every decoder's training, by prompts.

    Args:
        points: of `Point.summary`, or their means over replicas.
        over: what the intervals are over, in words.
    """
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for point in points:
        key = (point["prompts"], point["model"])
        if point["prompts"] in PROMPTS and (key not in last or last[key]["part"] < point["part"]):
            last[key] = point
    order = [(p, m) for p in PROMPTS for m in LABELS if (p, m) in last]
    body = [
        [
            Cell(PROMPTS[prompts]),
            Cell(LABELS[model]),
            Cell(str(last[prompts, model]["n"])),
            number(_times(last[prompts, model]["clip_score"], 100), 2),
            *(number(last[prompts, model][name], 3) for name in ACCURACIES),
        ]
        for prompts, model in order
    ]
    heads = ["prompts", "trained on", "n", "CLIP score x 100", *(f"{name} ↑" for name in ACCURACIES)]
    notes = [
        "Accuracy of what the prompt says, by the classifier; all: everything that it says is right. In brackets: 95 %"
        f" intervals over {over}. A reworded prompt is judged by what it said before.",
        "Real pictures: what the judges say of the pictures that the prompts are captions of. Such a picture counts as"
        " wrong where its prompt is wrong.",
    ]
    return Table("Decoders by their captions", heads, body, notes)


def _times(interval: Mapping[str, float] | None, factor: float) -> dict[str, float] | None:
    return None if interval is None else {key: factor * value for key, value in interval.items()}


def form_changes(points: Points, draws: int) -> list[dict[str, Any]]:
    """By how much more is right of a descriptive prompt in another form than of the prompt as it is.

    Returns:
        {"form", "model", "difference": {"value", "low", "high"}} each, paired by prompt, JSON-ready.
    """
    found = []
    for form, model in ((form, model) for form in FORMS if form != AS_IT_IS for model in MODELS):
        gap = gap_of(points, Gap(Side(form, model), Side(AS_IT_IS, model)), "all")
        if gap is not None:
            values, point = gap
            difference = as_json(Resampler(point.folder.caption_index, draws, 0).mean(values))
            found.append({"form": form, "model": model, "difference": difference})
    return found


def forms_table(points: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]], over: str) -> Table | None:
    """Accuracy of all that is said under changes of a prompt's form; None without such prompts.

    Args:
        points: of `Point.summary`, or their means over replicas; of the prompts as they are.
        changes: of `form_changes`, or their means over replicas.
        over: what the intervals are over, in words.
    """
    models = [name for name in MODELS if any(change["model"] == name for change in changes)]
    if not models:
        return None
    as_it_is = {p["model"]: p["all"] for p in sorted(points, key=lambda p: p["part"]) if p["prompts"] == AS_IT_IS}
    body = [[Cell(FORMS[AS_IT_IS]), *(number(as_it_is.get(model), 3) for model in models)]]
    by_key = {(change["form"], change["model"]): change["difference"] for change in changes}
    for form, label in FORMS.items():
        if any((form, model) in by_key for model in models):
            body.append([Cell(label), *(_signed(by_key.get((form, model))) for model in models)])
    notes = [
        "First row: share of pictures in which all is right that a true descriptive prompt says. Below: by how much"
        f" that changes with the prompt's form alone. In brackets: 95 % intervals over {over}.",
        "A full stop makes the last word another token. The suite draws no leading space, upper case or capital: the"
        " tokeniser folds case and spaces, so that they change nothing.",
    ]
    return Table("Changes of form", ["prompt", *(MODELS[name].label for name in models)], body, notes)


def _signed(interval: Mapping[str, float] | None) -> Cell:
    cell = number(interval, 3)
    return Cell(f"+{cell.text}", cell.interval) if interval is not None and float(cell.text) > 0 else cell
