"""Text diffs measured: scenes whose truth is known, one attribute changed by words, and a classifier as the judge."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.rendered.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, caption_of, describe, render, scene_for
from eval.judges.attributes import AttributeClassifier
from eval.metrics.placement import same_place
from eval.metrics.scoring import describe as in_words

CLASSES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "background": BACKGROUNDS}
SIDE = 128  # of the scenes as CLIP and the figure see them
BEFORE, AFTER, FALL = 0.1, 0.5, 0.15
"""An edit works at a theta if the wanted class is seen in less than `BEFORE` of the reconstructions, in `AFTER` or more
of the edited pictures, and everything else falls by `FALL` at most."""


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
    """Scenes of one object that no stage has seen; captions name its colour and shape, and what the edit changes."""
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
    """The result of one edit at one theta: (N,) 0 or 1 for the wanted class and for each thing to keep."""

    hit: Tensor
    kept: dict[str, Tensor]

    @property
    def all_kept(self) -> Tensor:
        """(N,) 1 where everything that should be kept is kept."""
        return torch.stack(list(self.kept.values())).amin(dim=0)


def judge(classifier: AttributeClassifier, task: Task, attribute: str, drawn: Tensor, source: Tensor) -> Outcome:
    """The classifier's results for the edited pictures, and whether the object has kept its place."""
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
    return float(before.hit.mean()) < BEFORE and margin(before, after) >= 0


def margin(before: Outcome, after: Outcome) -> float:
    """How far the edit is from the nearer of its two limits after it; below 0 it misses one."""
    falls = [float(before.kept[name].mean() - after.kept[name].mean()) for name in after.kept]
    return min(float(after.hit.mean()) - AFTER, FALL - max(falls))


def best_theta(thetas: list[float], outcomes: list[Outcome]) -> float:
    """The theta with the largest margin, the smaller one of equals; the first outcome is the reconstruction's."""
    margins = {theta: margin(outcomes[0], found) for theta, found in zip(thetas, outcomes, strict=True) if theta > 0}
    return max(sorted(margins), key=lambda theta: round(margins[theta], 6))


def working_thetas(thetas: list[float], outcomes: list[Outcome]) -> list[float]:
    """The thetas at which an edit works; the first outcome is the reconstruction's."""
    return [theta for theta, found in zip(thetas, outcomes, strict=True) if theta > 0 and works(outcomes[0], found)]
