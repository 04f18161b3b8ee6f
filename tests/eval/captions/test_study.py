"""The study's arithmetic on made-up points: differences are paired, verdicts need intervals, traces are exact."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from eval.captions.claims import claims_table, differences, over_seeds, verdict
from eval.captions.models import MODELS
from eval.captions.points import NAME, Point
from eval.captions.tables import forms_table, points_table
from eval.captions.trace import trace
from eval.errors import InputError
from eval.figures.captions import FIGURES, curves
from eval.metrics.scoring import ATTRIBUTES

N = 40


def point(prompts, model, right, part=3, clip=None, records=(), words=()):
    index = np.arange(len(right))
    folder = SimpleNamespace(caption_index=index, records=list(records), path=f"{prompts}-{model}")
    scores = {name: np.full(len(right), np.nan) for name in ATTRIBUTES}
    scores |= {"all": np.asarray(right, float), "clip_score": np.asarray(right if clip is None else clip, float)}
    return Point(prompts, model, part, folder, list(words), scores)


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    hard = rng.random(N)  # some prompts are harder than others, for every model
    found = {}
    for model, gain in (("ground_truth", 0.0), ("short_95", 0.1), ("descriptive_95", 0.3)):
        for prompts in ("ground_truth", "descriptive"):
            found[prompts, model, 3] = point(prompts, model, hard + gain)
    return found


def test_differences_are_paired_by_prompt(points):
    claims = differences(points, 200)
    assert len(claims) == 8  # two models, two kinds of prompts, two metrics
    for claim in claims:
        gain = 0.3 if "descriptive synthetic" in claim["label"] else 0.1
        # Every prompt gains the same, so that the interval has no width, however unlike the prompts are.
        assert claim["difference"] == pytest.approx({"value": gain, "low": gain, "high": gain})
        assert verdict(claim) == "agrees"
    assert "0.300 [0.300, 0.300] | agrees" in claims_table(claims, "prompts").markdown()


def test_a_verdict_needs_an_interval_without_0():
    claim = lambda low, high, paper="so": {"paper": paper, "difference": {"value": 0.0, "low": low, "high": high}}  # noqa: E731
    assert verdict(claim(-1, 1)) == "not decided"
    assert verdict(claim(0.1, 1)) == "agrees"
    assert verdict(claim(-1, -0.1)) == "disagrees"
    assert (verdict(claim(0.1, 1, "")), verdict(claim(-1, -0.1, ""))) == ("higher", "lower")


def test_over_seeds_it_is_students_interval_of_the_differences():
    replica = lambda value, label="x": [{"paper": "p", "label": label, "metric": "all", "difference": {"value": value}}]  # noqa: E731
    (found,) = over_seeds([replica(0.1), replica(0.2), replica(0.3)])
    half = 4.302652729911275 * 0.1 / 3**0.5
    assert found["difference"] == pytest.approx({"value": 0.2, "low": 0.2 - half, "high": 0.2 + half})
    assert over_seeds([replica(0.1), replica(0.2, "other")]) == []


def described(shape, relation=None, shape_2="cross"):
    first = {"shape": shape, "colour": "red", "size": "small"}
    second = {"shape": shape_2, "colour": "blue", "size": "large"}
    two = relation is not None
    axis = {"above": "vertical", "left of": "horizontal"}.get(relation)
    seen = {"count": 2 if two else 1, "axis": axis, "background": "tan", "objects": [first, second][: 1 + two]}
    return seen, {**{k: v for k, v in seen.items() if k != "axis"}, "relation": relation}


def test_a_trace_tells_captions_mistakes_from_the_decoders():
    circle, square, triangle = (described(shape) for shape in ("circle", "square", "triangle"))
    cases = [  # (what the scene is, what the caption says, what the picture shows)
        (circle, circle, circle),
        (circle, square, square),  # the caption is wrong, and the picture follows it
        (circle, square, circle),  # the caption is wrong, and the picture is right all the same
        (circle, circle, triangle),  # the decoder's own mistake
    ]
    records = [{"caption_index": k, "mentioned": said[1]} for k, (_, said, _) in enumerate(cases)]
    scenes = {k: scene[1] for k, (scene, *_) in enumerate(cases)}
    rows = trace(
        point("synthetic", "true_95", [1] * 4, records=records, words=[seen[0] for *_, seen in cases]), scenes, 50
    )
    found = {row["attribute"]: {k: v and v["value"] for k, v in row.items() if isinstance(v, dict)} for row in rows}
    assert found["shape"] == {"wrong_pictures": 0.5, "wrong_captions": 0.5, "explained": 0.5, "followed": 0.5}
    assert found["any"] == found["shape"]
    assert found["colour"] == {"wrong_pictures": 0.0, "wrong_captions": 0.0}


def test_a_wrong_relation_is_traced():
    (seen, scene), (_, said) = described("circle", "above"), described("circle", "left of")
    records = [{"caption_index": k, "mentioned": said} for k in range(2)]
    shown = [seen, {**seen, "axis": "horizontal"}]
    rows = trace(point("synthetic", "true_95", [1, 1], records=records, words=shown), {0: scene, 1: scene}, 50)
    (row,) = [row for row in rows if row["attribute"] == "relation"]
    assert [row[k]["value"] for k in ("wrong_pictures", "wrong_captions", "explained", "followed")] == [0.5, 1, 1, 0.5]


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def summary(prompts, model, part, value):
    names = [*ATTRIBUTES, "clip_score"]
    return {"prompts": prompts, "model": model, "part": part, "step": part * 100, "n": 5} | {
        name: interval(value) for name in names
    }


def test_tables_show_the_end_of_training_and_figures_all_of_it():
    many = [
        summary(prompts, model, part, 0.1 * part)
        for prompts in ("ground_truth", "descriptive")
        for model in MODELS
        for part in (1, 2, 3)
    ]
    table = points_table(many)
    assert len(table.rows) == 2 * len(MODELS)
    assert {row[3].text for row in table.rows} == {"30.00"}
    for models in FIGURES.values():
        figure = curves(many, models, "prompts")
        assert len(figure.axes) == 4
        for axis in figure.axes:
            assert len(axis.containers) == len(models)
            (line, *_) = axis.containers[0]
            scale = 100 if "CLIP" in axis.get_ylabel() else 1
            assert list(line.get_ydata()) == pytest.approx([0.1 * scale, 0.2 * scale, 0.3 * scale])
    assert curves(many[:3], FIGURES["dalle3_figure_5_share"], "prompts") is None
    assert forms_table(many) is None
    forms = forms_table([*many, summary("form_full_stop", "descriptive_100", 3, 0.05)])
    assert forms.columns == ["prompt", MODELS["descriptive_100"].label]
    assert [row[1].text for row in forms.rows] == ["0.300", "0.050"]


def test_names_of_folders():
    found = NAME.fullmatch("form_full_stop-descriptive_95-3")
    assert found.groups() == ("form_full_stop", "descriptive_95", "3")
    assert NAME.fullmatch("glide") is None


def test_pictures_of_other_prompts_are_not_compared(points):
    folder = points["descriptive", "short_95", 3].folder
    folder.caption_index = folder.caption_index[::-1]
    with pytest.raises(InputError, match="short_95 and descriptive-ground_truth are compared prompt by prompt"):
        differences(points, 10)
