"""Text diffs measured: scenes whose truth is known, one attribute changed by words, and a classifier as the judge."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, caption_of, describe, render, scene_for
from eval.attributes import AttributeClassifier, load_classifier
from eval.bootstrap import Interval
from eval.figure_folder import FigureRecord
from eval.panels import panel
from eval.placement import same_place
from eval.scoring import describe as in_words
from eval.tables import Cell, Table
from experiments.manipulations.common import cell, enlarged, finish, interval, pictures, walk_of
from experiments.progress import progress
from modules.errors import InputError
from modules.images import resized
from modules.manipulations import decoder_size, invert, redraw, text_diff, text_direction
from modules.pipeline import UnCLIP

CLASSES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "background": BACKGROUNDS}
KEPT = ("colour", "shape", "size", "background", "count", "place")
SIDE = 128  # of the scenes as CLIP and the figure see them
BEFORE, AFTER, FALL = 0.1, 0.5, 0.15
"""An edit works if the wanted class is seen in less than `BEFORE` of the reconstructions, in at least `AFTER` of the
edited pictures, and everything else falls by `FALL` at most."""


@dataclass(frozen=True)
class Edit:
    """One kind of edit: `attribute` becomes `new` (drawn for each scene if None) in scenes that look like `given`."""

    name: str
    attribute: str
    given: Mapping[str, str]
    new: str | None = None


EDITS = (
    Edit("a red circle → a blue circle", "colour", {"shape": "circle", "colour": "red"}, "blue"),
    Edit("colour → another", "colour", {}),
    Edit("shape → another", "shape", {}),
    Edit("size → the other", "size", {}),
    Edit("background → another", "background", {}),
)


@dataclass(frozen=True)
class Task:
    """Scenes for one edit.

    Attributes:
        images: (N, 3, S, S) in [-1, 1].
        truth: what each scene is, as `describe` says it.
        new: the class that is wanted in each.
        base, target: captions without and with the change.
    """

    images: Tensor
    truth: list[dict[str, Any]]
    new: list[str]
    base: list[str]
    target: list[str]


def make_task(edit: Edit, count: int, seed: int) -> Task:
    """N scenes of one object that no stage has seen, and captions that name its colour and shape and what changes."""
    rng = np.random.default_rng((seed, EDITS.index(edit)))
    images, truth, new, base, target = [], [], [], [], []
    for k in range(count):
        looks = {name: edit.given.get(name) for name in ("shape", "colour", "size")}
        wanted = {"objects": [looks], "background": None, "relation": None, "count": 1}
        scene = scene_for(wanted, (seed + 1) * 10_000_000 + EDITS.index(edit) * 10_000 + k)
        found = describe(scene)
        here = found["background"] if edit.attribute == "background" else found["objects"][0][edit.attribute]
        others = [name for name in CLASSES[edit.attribute] if name != here]
        changed = edit.new or others[int(rng.integers(len(others)))]
        images.append(torch.from_numpy(render(scene, SIDE)).permute(2, 0, 1).float() / 127.5 - 1)
        truth.append(found)
        new.append(changed)
        said = _said(found, edit.attribute)
        base.append(caption_of(said))
        target.append(caption_of(_with(said, edit.attribute, changed)))
    return Task(torch.stack(images), truth, new, base, target)


def _said(found: dict[str, Any], attribute: str) -> dict[str, Any]:
    """What the base caption mentions: colour and shape, and the size or background if that is to change."""
    look = dict(found["objects"][0])
    if attribute != "size":
        look["size"] = None
    background = found["background"] if attribute == "background" else None
    return {"objects": [look], "background": background, "relation": None, "count": None}


def _with(said: dict[str, Any], attribute: str, value: str) -> dict[str, Any]:
    changed = copy.deepcopy(said)
    if attribute == "background":
        changed["background"] = value
    else:
        changed["objects"][0][attribute] = value
    return changed


@dataclass(frozen=True)
class Outcome:
    """What came of one edit at one theta: (N,) 0 or 1 for the wanted class and for each thing to keep."""

    hit: Tensor
    kept: dict[str, Tensor]


def judge(classifier: AttributeClassifier, task: Task, attribute: str, drawn: Tensor, source: Tensor) -> Outcome:
    """What the classifier sees in the edited pictures, and whether the object stayed where it was."""
    seen = in_words(classifier.look(drawn.cpu()).classes.numpy(), classifier.attributes)
    first = [{**picture["objects"][0], "background": picture["background"]} for picture in seen]
    true = [{**scene["objects"][0], "background": scene["background"]} for scene in task.truth]
    hit = torch.tensor([float(f[attribute] == wanted) for f, wanted in zip(first, task.new, strict=True)])
    kept = {
        name: torch.tensor([float(f[name] == t[name]) for f, t in zip(first, true, strict=True)])
        for name in CLASSES
        if name != attribute
    }
    kept["count"] = torch.tensor([float(picture["count"] == 1) for picture in seen])
    kept["place"] = same_place(drawn.cpu(), source.cpu())
    return Outcome(hit, kept)


def works(before: Outcome, after: Outcome) -> bool:
    """Whether the edit does what the words say and no more, by the limits above."""
    falls = [float(before.kept[name].mean() - after.kept[name].mean()) for name in after.kept]
    return float(before.hit.mean()) < BEFORE and float(after.hit.mean()) >= AFTER and max(falls) <= FALL


def table_figure(system: UnCLIP, options: argparse.Namespace) -> int:
    """`unclip text-diff --table N`; returns the exit code."""
    if options.table < 2:
        raise InputError(f"--table needs 2 scenes or more, got {options.table}")
    classifier = load_classifier(Path(options.run) / "classifier")
    walk, side = walk_of(options), decoder_size(system)
    thetas = sorted({0.0, *options.theta})
    rows, pages, numbers = [], [], {}
    working: list[str] = []
    failing: list[str] = []
    bases: list[list[Cell]] = []
    for edit in progress(EDITS, "text diffs"):
        task = make_task(edit, options.table, options.seed)
        low = resized(task.images, side)
        latents = invert(system, task.images, None, walk)
        z_d = text_direction(system, task.target, task.base)
        drawn = [redraw(system, text_diff(latents, z_d, theta), walk) for theta in thetas]
        outcomes = [judge(classifier, task, edit.attribute, images, low) for images in drawn]
        rows.append(_row(edit, outcomes))
        (working if works(outcomes[0], outcomes[-1]) else failing).append(edit.name)
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
        f"Work (wanted class under {BEFORE:g} before, {AFTER:g} or more at theta {thetas[-1]:g}, nothing else down by "
        f"more than {FALL:g}): {', '.join(working) or 'none'}.",
        f"Do not: {', '.join(failing) or 'none'}.",
    ]
    record = FigureRecord("Text diffs, measured", notes, tables, numbers={"edits": numbers, "works": working})
    return finish(options, "text-diff", record, {"figure.png": page})


def _row(edit: Edit, outcomes: list[Outcome]) -> list[Cell]:
    cells = [Cell(edit.name), *(cell(interval(outcome.hit)) for outcome in outcomes)]
    for name in KEPT:
        if name not in outcomes[-1].kept:
            cells.append(Cell("(changed)"))
            continue
        after: Interval = interval(outcomes[-1].kept[name])
        shown = cell(after)
        cells.append(Cell(f"{float(outcomes[0].kept[name].mean()):.2f} → {shown.text}", shown.interval))
    return [*cells, Cell("yes" if works(outcomes[0], outcomes[-1]) else "no")]


def _table(rows: list[list[Cell]], thetas: list[float], count: int) -> Table:
    columns = ["edit", *(f"hit, theta {theta:g}" for theta in thetas), *(f"{name} kept" for name in KEPT), "works"]
    notes = [
        f"n = {count} scenes an edit, drawn for this and seen by no stage; theta 0 is the reconstruction. Hit: the "
        "classifier sees the wanted class. Kept: it still sees what the scene had, before → after; place: the "
        "object's centre, by its pixels, moved by 0.15 half frames at most. In brackets: 95% bootstrap interval.",
    ]
    return Table("Attribute changed, attributes kept", columns, rows, notes)


def _base_row(name: str, outcome: Outcome) -> list[Cell]:
    kept = torch.stack(list(outcome.kept.values())).amin(dim=0)
    return [Cell(name), cell(interval(outcome.hit)), cell(interval(kept))]


def _base_table(rows: list[list[Cell]], theta: float, count: int) -> Table:
    note = f"n = {count}; the colour edit at theta {theta:g}. All kept: every other attribute, count and place."
    return Table("What the base caption says", ["base caption", "hit", "all kept"], rows, [note])
