"""`unclip text-diff --table N`: which edits by words work, in numbers, with two scenes of each to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from eval.attributes import load_classifier
from eval.bootstrap import Interval
from eval.figure_folder import FigureRecord
from eval.panels import panel
from eval.tables import Cell, Table
from experiments.manipulations.common import cell, enlarged, finish, interval, pictures, walk_of
from experiments.manipulations.edits import AFTER, BEFORE, EDITS, FALL, Edit, Outcome, judge, make_task, working_thetas
from experiments.progress import progress
from modules.errors import InputError
from modules.images import resized
from modules.manipulations import decoder_size, invert, redraw, text_diff, text_direction
from modules.pipeline import UnCLIP

KEPT = ("colour", "shape", "size", "background", "count", "place")


def table_figure(system: UnCLIP, options: argparse.Namespace) -> int:
    """`unclip text-diff --table N`; returns the exit code."""
    if options.table < 2:
        raise InputError(f"--table needs 2 scenes or more, got {options.table}")
    classifier = load_classifier(Path(options.run) / "classifier")
    walk, side = walk_of(options), decoder_size(system)
    thetas = sorted({0.0, *options.theta})
    rows, pages, numbers = [], [], {}
    working: dict[str, list[float]] = {}
    bases: list[list[Cell]] = []
    for edit in progress(EDITS, "text diffs"):
        task = make_task(edit, options.table, options.seed)
        low = resized(task.images, side)
        latents = invert(system, task.images, None, walk)
        z_d = text_direction(system, task.target, task.base)
        drawn = [redraw(system, text_diff(latents, z_d, theta), walk) for theta in thetas]
        outcomes = [judge(classifier, task, edit.attribute, images, low) for images in drawn]
        working[edit.name] = working_thetas(thetas, outcomes)
        rows.append(_row(edit, thetas, outcomes))
        numbers[edit.name] = {
            "theta": thetas,
            "hit": [float(o.hit.mean()) for o in outcomes],
            "kept": {name: [float(o.kept[name].mean()) for o in outcomes] for name in outcomes[0].kept},
        }
        columns = [pictures(task.images[:2]), *(enlarged(system, options, images[:2]) for images in drawn)]
        names = [f"{base}, to {target}" for base, target in zip(task.base[:2], task.target[:2], strict=True)]
        pages.append(([list(row) for row in zip(*columns, strict=True)], names))
        if edit.name == "colour → another":
            for name, base in (("a shape", ["a shape"] * options.table), ("none", None)):
                moved = text_diff(latents, text_direction(system, task.target, base), thetas[-1])
                bases.append(_base_row(name, judge(classifier, task, "colour", redraw(system, moved, walk), low)))
            bases.insert(0, _base_row("what the picture is", outcomes[-1]))
    tables = [_table(rows, thetas, options.table), _base_table(bases, thetas[-1], options.table)]
    heads = ["picture", *(f"theta {theta:g}" for theta in thetas)]
    page = panel([row for part, _ in pages for row in part], heads, [name for _, names in pages for name in names], 96)
    notes = [
        f"z_i turns towards the difference of two captions by theta of the angle between them, x_T stays "
        f"({options.steps} steps, guidance {options.guidance:g}). Two scenes of each edit; the table counts all.",
        f"Work at one of these thetas (wanted class under {BEFORE:g} before, {AFTER:g} or more after, nothing else "
        f"down by more than {FALL:g}): {', '.join(name for name, at in working.items() if at) or 'none'}.",
        f"Do not: {', '.join(name for name, at in working.items() if not at) or 'none'}.",
    ]
    record = FigureRecord("Text diffs, measured", notes, tables, numbers={"edits": numbers, "works": working})
    return finish(options, "text-diff", record, {"figure.png": page})


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
        after: Interval = interval(shown_at.kept[name])
        shown = cell(after)
        cells.append(Cell(f"{float(outcomes[0].kept[name].mean()):.2f} → {shown.text}", shown.interval))
    return [*cells, Cell(f"at {', '.join(f'{value:g}' for value in working)}" if working else "no")]


def _table(rows: list[list[Cell]], thetas: list[float], count: int) -> Table:
    hits, kept = (f"hit, theta {theta:g}" for theta in thetas), (f"{name} kept" for name in KEPT)
    columns = ["edit", *hits, "kept at theta", *kept, "works"]
    notes = [
        f"n = {count} scenes an edit, drawn for this and seen by no stage; theta 0 is the reconstruction. Hit: the "
        "classifier sees the wanted class. Kept: it still sees what the scene had, before → after, at the smallest "
        "theta at which the edit works, or the largest if at none; place: the object's centre, by its pixels, moved by "
        "0.15 half frames at most. In brackets: 95% bootstrap interval.",
    ]
    return Table("Attribute changed, attributes kept", columns, rows, notes)


def _base_row(name: str, outcome: Outcome) -> list[Cell]:
    kept = torch.stack(list(outcome.kept.values())).amin(dim=0)
    return [Cell(name), cell(interval(outcome.hit)), cell(interval(kept))]


def _base_table(rows: list[list[Cell]], theta: float, count: int) -> Table:
    note = f"n = {count}; the colour edit at theta {theta:g}. All kept: every other attribute, count and place."
    return Table("What the base caption says", ["base caption", "hit", "all kept"], rows, [note])
