"""A stage's `matrix`: which stages it stands for, and that the shipped suites are what they were without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.suites.matrix import expanded
from experiments.suites.staging import Staging
from experiments.suites.suite import find_suite, load_suite
from modules.errors import InputError

TEMPLATE = {
    "name": "draw_{condition}",
    "run": "unclip sample --run {run} --condition {condition} -n {count} --out {run}/{condition}",
    "needs": ["clip", "{models}", "upsampler"],
    "outputs": ["{condition}/manifest.jsonl"],
    "cost": "{minutes}",
    "show": True,
}
ROWS = [
    {"condition": "glide", "models": ["glide"], "count": 2, "minutes": 0.5},
    {"condition": "ar_prior", "models": ["ar_prior", "decoder"], "count": 3, "minutes": 2},
]


def test_a_row_is_a_stage():
    assert expanded({**TEMPLATE, "matrix": ROWS}, "x") == [
        {
            "name": "draw_glide",
            "run": "unclip sample --run {run} --condition glide -n 2 --out {run}/glide",
            "needs": ["clip", "glide", "upsampler"],
            "outputs": ["glide/manifest.jsonl"],
            "cost": 0.5,
            "show": True,
        },
        {
            "name": "draw_ar_prior",
            "run": "unclip sample --run {run} --condition ar_prior -n 3 --out {run}/ar_prior",
            "needs": ["clip", "ar_prior", "decoder", "upsampler"],
            "outputs": ["ar_prior/manifest.jsonl"],
            "cost": 2,
            "show": True,
        },
    ]


def test_lists_of_values_are_combined_the_last_variable_fastest():
    entry = {"name": "{a}_{b}", "run": "x {a} {b}", "matrix": {"a": ["p", "q"], "b": [1, 2, 3]}}
    assert [stage["name"] for stage in expanded(entry, "x")] == ["p_1", "p_2", "p_3", "q_1", "q_2", "q_3"]


def test_a_stage_without_a_matrix_is_itself():
    entry = {"name": "a", "run": "awk '{print} {x}'"}
    assert expanded(entry, "x") == [entry]
    assert expanded("text", "x") == ["text"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": {}}, "s.yaml: stage 3 (draw_{condition}): 'matrix' has no values"),
        ({"matrix": []}, "'matrix' has no values"),
        ({"matrix": {"a": []}}, "'matrix' has no values"),
        (
            {"matrix": "glide"},
            "'matrix' is a mapping of lists, as in {condition: [glide, ar_prior]}, or a list of rows",
        ),
        ({"matrix": {"condition": "glide"}}, "'matrix' is a mapping of lists"),
        ({"matrix": ["glide"]}, "'matrix' is a mapping of lists"),
        ({"matrix": [{"run": "x"}]}, "'matrix' sets 'run', which is the run folder; choose another name"),
        ({"matrix": {"two words": [1]}}, "'matrix' sets 'two words', which is no name of a variable"),
        ({"matrix": {1: [2]}}, "'matrix' sets 1, which is no name of a variable"),
        ({"run": "x {conditon}"}, "no variable {conditon} in this row of its matrix, {'condition': 'glide', "),
        ({"run": "x {conditon}"}, "; did you mean {condition}?"),
        ({"run": "x {models}"}, "'{models}' inside of a text is ['glide']; a list can only stand in a list"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(InputError) as raised:
        expanded({**TEMPLATE, "matrix": ROWS, **change}, "s.yaml: stage 3")
    assert message in str(raised.value)


STOOD = [  # in the YAMLs of commit e0b2ed8, but for the costs of the quickstart
    ("quickstart", "caption_only", 2, ("real", "clip", "decoder", "upsampler"), 0.3),
    ("quickstart", "glide", 2, ("real", "clip", "glide", "upsampler"), 0.3),
    ("quickstart", "text_embedding", 2, ("real", "clip", "decoder", "upsampler"), 0.3),
    ("quickstart", "linear_prior", 2, ("real", "clip", "linear_prior", "decoder", "upsampler"), 0.3),
    ("quickstart", "ar_prior", 2, ("real", "clip", "ar_prior", "decoder", "upsampler"), 0.5),
    ("quickstart", "diffusion_prior", 2, ("real", "clip", "diffusion_prior", "decoder", "upsampler"), 0.5),
    ("quickstart", "image_embedding", 2, ("real", "clip", "decoder", "upsampler"), 0.3),
    ("shapes", "glide", 2, ("real", "clip", "glide", "upsampler"), 2.5),
    ("shapes", "ar_prior", 2, ("real", "clip", "ar_prior", "decoder", "upsampler"), 2.5),
    ("emoji", "glide", 1, ("real", "clip", "glide", "upsampler"), 0.1),
    ("emoji", "diffusion_prior", 1, ("real", "clip", "diffusion_prior", "decoder", "upsampler"), 0.1),
]


@pytest.mark.parametrize(("suite", "condition", "count", "needs", "cost"), STOOD)
def test_the_sampling_stages_are_those_that_stood_in_the_yamls(suite, condition, count, needs, cost):
    stage = load_suite(Path(f"experiments/{suite}/suite.yaml")).stages[f"sample_{condition}"]
    assert stage.run == (
        f"unclip sample --run {{run}} --captions {{run}}/samples/real/manifest.jsonl -n {count} "
        f"--condition {condition} --out {{run}}/samples/{condition} --overwrite"
    )
    assert (stage.needs, stage.cost) == (needs, cost)
    assert stage.outputs == (f"samples/{condition}/manifest.jsonl",)


# A stage's hash holds its command, the content of its configs and the hashes of all stages that it needs. Where a YAML
# is changed on purpose, and only then, a hash changes here, and earlier runs are no longer up to date.
RECORDED = {
    "quickstart": {"real": "6692ca1130e4f20f", "embeddings": "d5834c32efc77c88"},
    "shapes": {"real": "cf29c9820a3cd383", "embeddings": "fa82f047cd502a67"},
    "emoji": {"real": "6e71eb0388babcc7", "embeddings": "8fa59c1f64a17814"},
    "sam": {"probe": "ef27a138c299e97e", "probe_sam": "ab7de07f353e2ae7", "rank": "dc3a654e97190d8f"},
}


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_earlier_runs_are_up_to_date(name, elsewhere, tmp_path, monkeypatch):
    if elsewhere:
        monkeypatch.chdir(tmp_path)
    recipes = Staging(load_suite(find_suite(name))).recipes
    assert {stage: recipes[stage].hash for stage in RECORDED[name]} == RECORDED[name]
