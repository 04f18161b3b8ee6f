"""`unclip text-diff --table N`: which edits by words work, in numbers, with two scenes of each to look at."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eval.figures.folder import FigureRecord
from eval.figures.panels import panel
from eval.judges.attributes import AttributeClassifier, load_classifier
from eval.metrics.bootstrap import as_json
from eval.tables.main import Cell, Table
from experiments.console.progress import progress
from experiments.manipulations.common import cell, enlarged, finish, interval, pictures, walk_of
from experiments.manipulations.measured.edits import (
    AFTER,
    BEFORE,
    EDITS,
    FALL,
    Edit,
    Outcome,
    Task,
    best_theta,
    judge,
    make_task,
    working_thetas,
    works,
)
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations import EDIT_STEPS, Latents, Walk, decoder_size, invert, redraw, text_diff, text_direction
from modules.pipeline import UnCLIP

KEPT = ("colour", "shape", "size", "background", "count", "place")
PLACE = "place: the object's centre, by its pixels, moved by 0.15 half frames at most"
CHOICE = 1_000_003  # added to the seed for the scenes on which theta is chosen


def table_figure(system: UnCLIP, options: argparse.Namespace) -> int:
    """`unclip text-diff --table N [--choose M]`; returns the exit code."""
    if options.table < 2 or (options.choose is not None and options.choose < 2):
        raise InputError(f"--table and --choose need 2 scenes or more, got {options.table} and {options.choose}")
    thetas = sorted({0.0, *options.theta})
    if len(thetas) < 2:
        raise InputError("--theta needs a theta above 0 to measure an edit at")
    if options.latents or options.images:
        raise InputError("--table draws its own scenes: leave the pictures and --latents out")
    options.steps = EDIT_STEPS if options.steps is None else options.steps
    options.guidance = Walk().guidance_scale if options.guidance is None else options.guidance
    bench = Bench(system, load_classifier(Path(options.run) / "classifier"), walk_of(options))
    found = [_measure(bench, edit, thetas, options) for edit in progress(EDITS, "text diffs")]
    rows = [_chosen_row(one) if options.choose else _row(one.edit, one.thetas, one.outcomes) for one in found]
    table = _chosen_table(rows, options) if options.choose else _table(rows, thetas, options.table)
    works = {one.edit.name: one.works_at(bool(options.choose)) for one in found}
    colours = next(one for one in found if one.edit.name == "colour → another")
    bases = _bases(bench, colours)
    base = _base_table([_base_row(*one) for one in bases.items()], colours.thetas[-1], options.table)
    shown = found[0].thetas if not options.choose else []
    heads = [
        "picture",
        "theta 0",
        *(["half of theta", "theta"] if options.choose else map("theta {:g}".format, shown[1:])),
    ]
    rows_of_pictures, names = [], []
    for one in found:
        columns = [pictures(one.task.images[:2]), *(enlarged(system, options, low[:2]) for low in one.drawn)]
        rows_of_pictures += [list(row) for row in zip(*columns, strict=True)]
        at = f" (theta {one.thetas[-1]:g})" if options.choose else ""
        names += [f"{b}, to {t}{at}" for b, t in zip(one.task.base[:2], one.task.target[:2], strict=True)]
    numbers = {"edits": {one.edit.name: one.numbers() for one in found}, "works": works}
    numbers["bases"] = {name: _base_numbers(outcome) for name, outcome in bases.items()}
    record = FigureRecord("Text diffs, measured", _notes(works, options), [table, base], numbers=numbers)
    return finish(options, "text-diff", record, {"figure.png": panel(rows_of_pictures, heads, names, 96)})


@dataclass(frozen=True)
class Bench:
    """The system, the classifier and the walk with which edits are measured."""

    system: UnCLIP
    classifier: AttributeClassifier
    walk: Walk

    def draw(self, latents: Latents, task: Task, base: list[str] | None, theta: float) -> Tensor:
        """(N, 3, s, s) after an edit by `theta`."""
        z_d = text_direction(self.system, task.target, base)
        return redraw(self.system, text_diff(latents, z_d, theta), self.walk)

    def judge(self, edit: Edit, task: Task, drawn: Tensor) -> Outcome:
        """The results of the edit."""
        return judge(self.classifier, task, edit.attribute, drawn, resized(task.images, decoder_size(self.system)))


@dataclass(frozen=True)
class Measured:
    """An edit at several thetas, the first one 0; where theta was chosen, it is the last."""

    edit: Edit
    task: Task
    latents: Latents
    thetas: list[float]
    drawn: list[Tensor]
    outcomes: list[Outcome]
    chosen_from: list[Outcome]

    def works_at(self, chosen: bool) -> list[float]:
        """Thetas at which the edit works; of a chosen theta, that one alone counts."""
        found = working_thetas(self.thetas, self.outcomes)
        return [theta for theta in found if theta == self.thetas[-1]] if chosen else found

    def numbers(self) -> dict[str, Any]:
        """The numbers for figure.json: at each theta the share of scenes with its interval."""
        kept = {name: _shares(o.kept[name] for o in self.outcomes) for name in self.outcomes[0].kept}
        made = {"theta": self.thetas, "hit": _shares(o.hit for o in self.outcomes), "kept": kept}
        return made | ({"chosen_from": _shares(o.hit for o in self.chosen_from)} if self.chosen_from else {})


def _shares(measured: Iterable[Tensor]) -> list[dict[str, float] | None]:
    """Mean and interval of each (N,) tensor of zeros and ones."""
    return [as_json(interval(values)) for values in measured]


def _measure(bench: Bench, edit: Edit, thetas: list[float], options: argparse.Namespace) -> Measured:
    """An edit of N scenes at the thetas; or at the one that does best on M others, with half of it to look at."""
    chosen_from: list[Outcome] = []
    if options.choose:
        chosen_from = _outcomes(bench, edit, make_task(edit, options.choose, options.seed + CHOICE), thetas)[2]
        best = best_theta(thetas, chosen_from)
        thetas = [0.0, best / 2, best]
    task = make_task(edit, options.table, options.seed)
    latents, drawn, outcomes = _outcomes(bench, edit, task, thetas)
    return Measured(edit, task, latents, thetas, drawn, outcomes, chosen_from)


def _outcomes(bench: Bench, edit: Edit, task: Task, thetas: list[float]) -> tuple[Latents, list[Tensor], list[Outcome]]:
    latents = invert(bench.system, task.images, None, bench.walk)
    drawn = [bench.draw(latents, task, task.base, theta) for theta in thetas]
    return latents, drawn, [bench.judge(edit, task, images) for images in drawn]


def _bases(bench: Bench, found: Measured) -> dict[str, Outcome]:
    """The same edit at the last theta, by base caption: the right one, a vague one, none."""
    outcomes = {"what the picture is": found.outcomes[-1]}
    for name, base in (("a shape", ["a shape"] * len(found.task.target)), ("none", None)):
        drawn = bench.draw(found.latents, found.task, base, found.thetas[-1])
        outcomes[name] = bench.judge(found.edit, found.task, drawn)
    return outcomes


def _notes(works: dict[str, list[float]], options: argparse.Namespace) -> list[str]:
    at = "the theta chosen for it" if options.choose else "one of these thetas"
    limits = f"wanted class under {BEFORE:g} before, {AFTER:g} or more after, nothing else down by more than {FALL:g}"
    tried = ", ".join(f"{theta:g}" for theta in options.theta)
    chosen = f" Theta is chosen for each edit on {options.choose} other scenes, of {tried}." if options.choose else ""
    return [
        f"z_i turns towards the difference of two captions by theta of the angle between them, x_T stays "
        f"({options.steps} steps, guidance {options.guidance:g}).{chosen} Two scenes of each edit are shown; the table "
        "counts all.",
        f"Work at {at} ({limits}): {', '.join(name for name, found in works.items() if found) or 'none'}.",
        f"Do not: {', '.join(name for name, found in works.items() if not found) or 'none'}.",
    ]


def _row(edit: Edit, thetas: list[float], outcomes: list[Outcome]) -> list[Cell]:
    """Hits at every theta; what is kept at the smallest theta that works, or at the largest where none does."""
    working = working_thetas(thetas, outcomes)
    theta = working[0] if working else thetas[-1]
    shown_at = outcomes[thetas.index(theta)]
    cells = [Cell(edit.name), *(cell(interval(outcome.hit)) for outcome in outcomes), Cell(f"{theta:g}")]
    for name in KEPT:
        if name not in shown_at.kept:
            cells.append(Cell("(changed)"))
            continue
        cells.append(_change(outcomes[0].kept[name], shown_at.kept[name]))
    return [*cells, Cell(f"at {', '.join(f'{value:g}' for value in working)}" if working else "no")]


def _chosen_row(found: Measured) -> list[Cell]:
    """Before and after at the chosen theta, with the interval of what is seen after."""
    before, after = found.outcomes[0], found.outcomes[-1]
    kept = [_change(before.kept[name], after.kept[name]) if name in after.kept else Cell("(changed)") for name in KEPT]
    first = [Cell(found.edit.name), Cell(f"{found.thetas[-1]:g}"), _change(before.hit, after.hit)]
    return [*first, *kept, Cell("yes" if works(before, after) else "no")]


def _change(before: Tensor, after: Tensor) -> Cell:
    shown = cell(interval(after))
    return Cell(f"{float(before.mean()):.2f} → {shown.text}", shown.interval)


def _chosen_table(rows: list[list[Cell]], options: argparse.Namespace) -> Table:
    columns = ["edit", "theta", "wanted class", *(f"{name} kept" for name in KEPT), "works"]
    notes = [
        f"n = {options.table} scenes an edit, drawn for this and seen by no stage; theta is that one of those tried "
        f"which lies furthest inside the limits on {options.choose} other scenes. Wanted class: the share in which the "
        "classifier sees it, in the reconstruction → after the edit. Kept: it still sees what the scene had; "
        f"{PLACE}. In brackets: 95% bootstrap interval of what is seen after."
    ]
    return Table("Attribute changed, attributes kept", columns, rows, notes)


def _table(rows: list[list[Cell]], thetas: list[float], count: int) -> Table:
    hits, kept = (f"hit, theta {theta:g}" for theta in thetas), (f"{name} kept" for name in KEPT)
    columns = ["edit", *hits, "kept at theta", *kept, "works"]
    notes = [
        f"n = {count} scenes an edit, drawn for this and seen by no stage; theta 0 is the reconstruction. Hit: the "
        "classifier sees the wanted class. Kept: it still sees what the scene had, before → after, at the smallest "
        f"theta at which the edit works, or the largest if at none; {PLACE}. In brackets: 95% bootstrap interval.",
    ]
    return Table("Attribute changed, attributes kept", columns, rows, notes)


def _base_row(name: str, outcome: Outcome) -> list[Cell]:
    return [Cell(name), cell(interval(outcome.hit)), cell(interval(outcome.all_kept))]


def _base_numbers(outcome: Outcome) -> dict[str, dict[str, float] | None]:
    """The numbers of a base caption for figure.json: its two columns."""
    return {"hit": as_json(interval(outcome.hit)), "all": as_json(interval(outcome.all_kept))}


def _base_table(rows: list[list[Cell]], theta: float, count: int) -> Table:
    note = f"n = {count}; the colour edit at theta {theta:g}. All kept: every other attribute, count and place."
    return Table("What the base caption says", ["base caption", "hit", "all kept"], rows, [note])
