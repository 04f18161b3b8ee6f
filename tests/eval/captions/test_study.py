"""The study's arithmetic on made-up points: differences are paired, verdicts need intervals, traces are exact."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from eval.captions.claims import claims_table, differences, over_seeds, verdict
from eval.captions.models import MODELS, REAL
from eval.captions.points import NAME, Point
from eval.captions.tables import form_changes, forms_table, points_table
from eval.captions.trace import trace
from eval.errors import InputError
from eval.figures.captions import FIGURES, curves
from eval.metrics.scoring import ATTRIBUTES

N = 40


def point(prompts, model, right, part=3, clip=None, records=(), words=()):
    index = np.arange(len(right))
    records = list(records) or [{"caption": f"{prompts} {k}"} for k in index]
    folder = SimpleNamespace(caption_index=index, records=records, path=f"{prompts}-{model}")
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
    plain = [claim for claim in claims if "beyond" not in claim["label"] and "prompts − " not in claim["label"]]
    assert len(plain) == 8  # two models, two kinds of prompts, two metrics
    for claim in plain:
        gain = 0.3 if "descriptive synthetic" in claim["label"] else 0.1
        # Every prompt gains the same, so that the interval has no width, however unlike the prompts are.
        assert claim["difference"] == pytest.approx({"value": gain, "low": gain, "high": gain})
        assert verdict(claim) == "agrees"
    assert "0.300 [0.300, 0.300] | agrees" in claims_table(claims, "prompts").markdown()


def test_markedly_is_a_difference_of_differences(points):
    """A model that gains 0.3 on both kinds of prompts is better on descriptive ones, but not by more."""
    points["descriptive", "short_95", 3].scores["all"] += 0.25
    found = {c["label"]: c for c in differences(points, 200) if "beyond" in c["label"] and c["metric"] == "all"}
    assert len(found) == 2
    for label, claim in found.items():
        gain = 0.25 if "short" in label else 0.0
        assert claim["difference"] == pytest.approx({"value": gain, "low": gain, "high": gain}, abs=1e-12)


def test_what_the_paper_says_of_half_way_is_asked_before_the_end():
    found = {
        ("ground_truth", model, part): point("ground_truth", model, np.full(4, right), part)
        for model, part, right in (
            ("descriptive_65", 2, 0.1),
            ("descriptive_80", 2, 0.5),
            ("descriptive_65", 3, 0.9),
            ("descriptive_80", 3, 0.6),
        )
    }
    claims = {claim["label"]: claim["difference"]["value"] for claim in differences(found, 20)}
    gap = "80 % descriptive synthetic − 65 % descriptive synthetic, ground-truth prompts"
    assert claims == pytest.approx({gap: -0.3, f"{gap}, after part 2 of 3 of training": 0.4})


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
    assert "One training seed" in claims_table([{**replica(0.1)[0], "difference": interval(0.5)}], "x").notes[1]
    kept = claims_table(over_seeds([replica(v) for v in (0.1, 0.1001, 0.1002)]), "3 training seeds").notes[1]
    assert kept == "With Holm's correction within each statement there stay: x (all that is said): agrees."
    assert claims_table([found], "3 training seeds").notes[1].endswith("there stay: none.")


def described(shape, relation=None, shape_2="cross"):
    first = {"shape": shape, "colour": "red", "size": "small"}
    second = {"shape": shape_2, "colour": "blue", "size": "large"}
    two = relation is not None
    axis = {"above": "vertical", "left of": "horizontal"}.get(relation)
    seen = {"count": 2 if two else 1, "axis": axis, "background": "tan", "objects": [first, second][: 1 + two]}
    return seen, {**{k: v for k, v in seen.items() if k != "axis"}, "relation": relation}


CASES = [  # what the scene is, what the caption says, what the picture shows, what it shows after the true caption
    ("circle", "circle", "circle", "circle"),
    ("circle", "square", "square", "circle"),  # the caption is wrong, and the picture follows it
    ("circle", "square", "circle", "circle"),  # the caption is wrong, and the picture is right all the same
    ("circle", "square", "triangle", "square"),  # wrong in any case, and by chance as the caption has it
    ("circle", "circle", "triangle", "circle"),  # the decoder's own mistake
    ("circle", "circle", "circle", "triangle"),
]


def traced(cases, other=True):
    records = [{"caption": "", "caption_index": k, "mentioned": described(c[1])[1]} for k, c in enumerate(cases)]
    scenes = {k: described(case[0])[1] for k, case in enumerate(cases)}
    drawn, beside = (
        point(prompts, "true_95", [1] * len(cases), records=records, words=[described(case[k])[0] for case in cases])
        for prompts, k in (("synthetic", 2), ("descriptive", 3))
    )
    rows = trace(drawn, scenes, 50, beside if other else None)
    return {row["attribute"]: {k: v["value"] for k, v in row.items() if isinstance(v, dict)} for row in rows}


def test_a_trace_tells_captions_mistakes_from_the_decoders():
    found = traced(CASES)
    # Three pictures are wrong, two of them after a wrong caption. After the true captions of the three scenes with a
    # wrong one a single picture is wrong, so that one of the three is the captions' doing.
    assert found["shape"] == pytest.approx(
        {
            "wrong_pictures": 3 / 6,
            "wrong_captions": 3 / 6,
            "explained": 2 / 3,
            "caused": 1 / 3,
            "followed": 1 / 3,
            "followed_by_chance": 1 / 3,
        }
    )
    assert found["any"] == found["shape"]
    assert found["colour"] == {"wrong_pictures": 0.0, "wrong_captions": 0.0}
    assert set(traced(CASES, other=False)["shape"]) == {"wrong_pictures", "wrong_captions", "explained", "followed"}


def test_a_wrong_relation_is_traced_among_scenes_that_have_one():
    (seen, scene), (_, said) = described("circle", "above"), described("circle", "left of")
    (lone, lone_scene) = described("square")
    records = [{"caption_index": k, "mentioned": said} for k in range(2)]
    records.append({"caption_index": 2, "mentioned": lone_scene})
    shown = [seen, {**seen, "axis": "horizontal"}, lone]
    scenes = {0: scene, 1: scene, 2: lone_scene}
    rows = trace(point("synthetic", "true_95", [1, 1, 1], records=records, words=shown), scenes, 50)
    (row,) = [row for row in rows if row["attribute"] == "relation"]
    assert row["pictures"] == 2
    assert [row[k]["value"] for k in ("wrong_pictures", "wrong_captions", "explained", "followed")] == [0.5, 1, 1, 0.5]


def test_any_wants_the_same_attribute_in_picture_and_caption():
    """A caption that is wrong in the colour neither explains nor causes a wrong shape."""
    (seen, scene) = described("circle")
    said = {**scene, "objects": [{**scene["objects"][0], "colour": "blue"}]}
    shown = {**seen, "objects": [{**seen["objects"][0], "shape": "cross"}]}
    records = [{"caption_index": 0, "mentioned": said}]
    drawn, right = (
        point(prompts, "true_95", [1], records=records, words=[words])
        for prompts, words in (("synthetic", shown), ("descriptive", seen))
    )
    rows = trace(drawn, {0: scene}, 50, right)
    (row,) = [row for row in rows if row["attribute"] == "any"]
    assert [row[k]["value"] for k in ("wrong_pictures", "wrong_captions", "explained", "caused")] == [1, 1, 0, 0]


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
    table = points_table([*many, summary("descriptive", REAL, 0, 0.3)], "2 training seeds")
    assert len(table.rows) == 2 * len(MODELS) + 1
    assert {row[3].text for row in table.rows} == {"30.00"}
    assert table.rows[-1][1].text == "(real pictures)" and "intervals over 2 training seeds" in table.notes[0]
    for models in FIGURES.values():
        figure = curves(many, models, "prompts")
        assert len(figure.axes) == 4
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        (box,) = (found.get_window_extent(renderer) for found in figure.legends)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1  # no name is cut off
        for axis in figure.axes:
            assert len(axis.containers) == len(models)
            (line, *_) = axis.containers[0]
            scale = 100 if "CLIP" in axis.get_ylabel() else 1
            assert list(line.get_ydata()) == pytest.approx([0.1 * scale, 0.2 * scale, 0.3 * scale])
    assert curves(many[:3], FIGURES["dalle3_figure_5_share"], "prompts") is None


def test_changes_of_form_are_paired_with_the_prompt_as_it_is():
    rng = np.random.default_rng(0)
    right = (rng.random(N) < 0.5).astype(float)
    worse = right.copy()
    worse[:10] = 0
    found = {
        ("descriptive", "descriptive_100", 3): point("descriptive", "descriptive_100", right),
        ("form_capital", "descriptive_100", 3): point("form_capital", "descriptive_100", right),
        ("form_full_stop", "descriptive_100", 3): point("form_full_stop", "descriptive_100", worse),
    }
    changes = {change["form"]: change["difference"] for change in form_changes(found, 200)}
    assert changes["form_capital"] == {"value": 0, "low": 0, "high": 0}  # the same pictures
    assert changes["form_full_stop"]["value"] == pytest.approx(-right[:10].sum() / N)
    assert changes["form_full_stop"]["high"] < 0
    summaries = [summary("descriptive", "descriptive_100", part, 0.1 * part) for part in (1, 3)]
    assert forms_table(summaries, [], "prompts") is None
    table = forms_table(summaries, form_changes(found, 200), "prompts")
    assert table.columns == ["prompt", MODELS["descriptive_100"].label]
    assert [row[0].text for row in table.rows] == ["as it is", "Capital first", "a full stop"]
    assert [row[1].text for row in table.rows] == ["0.300", "0.000", f"{-right[:10].sum() / N:.3f}"]


def test_names_of_folders():
    found = NAME.fullmatch("form_full_stop-descriptive_95-3")
    assert found.groups() == ("form_full_stop", "descriptive_95", "3")
    assert NAME.fullmatch("glide") is None


def test_pictures_of_other_prompts_are_not_compared(points):
    folder = points["descriptive", "short_95", 3].folder
    folder.caption_index = folder.caption_index[::-1]
    with pytest.raises(InputError, match="short_95 and descriptive-ground_truth are compared prompt by prompt"):
        differences(points, 10)


def test_pictures_of_other_words_for_the_same_scenes_are_not_compared(points):
    points["descriptive", "short_95", 3].folder.records[0]["caption"] = "another"
    with pytest.raises(InputError, match="short_95 and descriptive-ground_truth are compared prompt by prompt"):
        differences(points, 10)
