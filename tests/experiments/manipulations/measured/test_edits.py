"""Scenes whose truth is known, and how an edit of them is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.rendered.scenes import ATTRIBUTES
from eval.judges.attributes import Attributes
from eval.pages.stored import numbers_of_figure
from experiments.manipulations.measured.edits import (
    EDITS,
    Outcome,
    best_theta,
    judge,
    make_task,
    margin,
    working_thetas,
    works,
)
from experiments.manipulations.measured.table import Measured, _row


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.name)
def test_a_task_changes_one_attribute_in_words(edit):
    task = make_task(edit, 8, seed=0)
    for scene, new, base, target in zip(task.truth, task.new, task.base, task.target, strict=True):
        look = {**scene["objects"][0], "background": scene["background"]}
        assert scene["count"] == 1
        assert all(look[name] == value for name, value in edit.given.items())
        assert new != look[edit.attribute]
        before, after = set(base.split()), set(target.split())
        assert before - after == {look[edit.attribute]}
        assert after - before == {new}
        assert {look["colour"], look["shape"]} <= before
    assert len(set(task.target)) > 1 or edit.new is not None
    other = make_task(edit, 8, seed=1)
    assert not torch.equal(task.images, other.images)
    assert torch.equal(task.images, make_task(edit, 8, seed=0).images)


class Sees:
    """A classifier that always answers the same."""

    attributes = ATTRIBUTES

    def __init__(self, rows):
        self.rows = rows

    def look(self, images):
        columns = list(ATTRIBUTES)
        classes = [[ATTRIBUTES[c].index(row[c]) if row.get(c) else 0 for c in columns] for row in self.rows]
        return Attributes(torch.tensor(classes), torch.zeros(len(images), 1))


def test_hits_and_what_is_kept_are_counted():
    edit = EDITS[0]
    task = make_task(edit, 3, seed=0)
    rows = []
    for scene, colour, shape in zip(task.truth, ("blue", "blue", "red"), ("circle", "square", "circle"), strict=True):
        look = scene["objects"][0]
        rows.append(
            {
                "count": "one",
                "background": scene["background"],
                "shape_1": shape,
                "colour_1": colour,
                "size_1": look["size"],
            }
        )
    rows[2]["count"] = "two"
    moved = task.images.clone()
    moved[1] = torch.roll(moved[1], 40, dims=2)
    outcome = judge(Sees(rows), task, "colour", moved, task.images)
    assert outcome.hit.tolist() == [1, 1, 0]
    assert outcome.kept["shape"].tolist() == [1, 0, 1]
    assert outcome.kept["size"].tolist() == [1, 1, 1]
    assert outcome.kept["background"].tolist() == [1, 1, 1]
    assert outcome.kept["count"].tolist() == [1, 1, 0]
    assert outcome.kept["place"].tolist() == [1, 0, 1]
    assert "colour" not in outcome.kept


def outcome(hit: float, shape: float) -> Outcome:
    return Outcome(torch.full((4,), hit), {"shape": torch.full((4,), shape)})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (outcome(0.0, 1.0), outcome(0.6, 0.9), True),
        (outcome(0.0, 1.0), outcome(0.4, 1.0), False),
        (outcome(0.2, 1.0), outcome(1.0, 1.0), False),
        (outcome(0.0, 1.0), outcome(1.0, 0.8), False),
        (outcome(0.0, 0.8), outcome(0.5, 0.7), True),
    ],
)
def test_an_edit_works_within_its_limits(before, after, expected):
    assert works(before, after) == expected


def test_the_best_theta_lies_furthest_inside_the_limits():
    thetas = [0.0, 0.25, 0.3, 0.375, 0.5]
    before = outcome(0.0, 1.0)
    after = [outcome(0.4, 1.0), outcome(0.55, 1.0), outcome(0.6, 0.95), outcome(1.0, 0.8)]
    assert margin(before, after[0]) == pytest.approx(-0.1)
    assert margin(before, after[3]) == pytest.approx(-0.05)
    assert best_theta(thetas, [before, *after]) == 0.375
    assert best_theta(thetas[:3], [before, after[0], after[0]]) == 0.25  # the smaller of equals, though neither works
    assert best_theta([0.0, 0.25, 0.5], [outcome(1.0, 1.0), outcome(0.55, 1.0), outcome(0.4, 1.0)]) == 0.25


def test_what_is_kept_is_told_at_the_smallest_theta_that_works():
    """At 0.25 too few hits, at 0.375 enough, at 0.5 more but the shape is lost."""
    thetas = [0.0, 0.25, 0.375, 0.5]
    outcomes = [outcome(0.0, 1.0), outcome(0.25, 1.0), outcome(0.5, 0.875), outcome(1.0, 0.5)]
    assert working_thetas(thetas, outcomes) == [0.375]
    cells = [cell.text for cell in _row(EDITS[1], thetas, outcomes)]
    assert cells[1:6] == ["0.00", "0.25", "0.50", "1.00", "0.375"]
    assert "1.00 → 0.88" in cells
    assert cells[-1] == "at 0.375"
    failing = [cell.text for cell in _row(EDITS[1], thetas[:2], outcomes[:2])]
    assert (failing[3], failing[-1]) == ("0.25", "no")
    both = [outcome(0.0, 1.0), outcome(0.75, 1.0), outcome(0.75, 0.9)]
    assert working_thetas(thetas[:3], both) == [0.25, 0.375]


def percentile_interval(hits: list[float]) -> dict[str, float]:
    """The share of ones, and the middle 95 % of a thousand shares of scenes drawn with replacement, by plain loops."""
    rng = np.random.default_rng(0)
    drawn = sorted(sum(hits[k] for k in rng.integers(len(hits), size=len(hits))) / len(hits) for _ in range(1000))
    low, high = (float(np.quantile(drawn, tail)) for tail in (0.025, 0.975))
    return {"value": sum(hits) / len(hits), "low": low, "high": high}


def test_numbers_hold_intervals():
    """Each theta has its share and interval, as do the thetas that were tried. Claims can store them."""
    some, most = [1.0] * 5 + [0.0] * 3, [0.0] + [1.0] * 7
    outcomes = [
        Outcome(torch.tensor(hit), {"shape": torch.ones(8), "place": torch.tensor(place)})
        for hit, place in (([0.0] * 8, [1.0] * 8), (some, most))
    ]
    chosen = [Outcome(torch.tensor(most), {"shape": torch.ones(8)})]
    numbers = Measured(EDITS[1], make_task(EDITS[1], 2, 0), None, [0.0, 0.4], [], outcomes, chosen).numbers()
    always = {"value": 1, "low": 1, "high": 1}
    assert numbers == {
        "theta": [0.0, 0.4],
        "hit": [{"value": 0, "low": 0, "high": 0}, percentile_interval(some)],
        "kept": {"shape": [always] * 2, "place": [always, percentile_interval(most)]},
        "chosen_from": [percentile_interval(most)],
    }
    assert numbers["chosen_from"][0] == {"value": 0.875, "low": 0.625, "high": 1}
    stored = numbers_of_figure({"edits": {EDITS[1].name: numbers}})["edits"][EDITS[1].name]
    assert stored["hit"]["1"] == {"value": 0.625, "low": 0.25, "high": 1}
    assert stored["kept"]["place"]["1"] == {"value": 0.875, "low": 0.625, "high": 1}
    assert stored["theta"] == {"0": {"value": 0}, "1": {"value": 0.4}}
