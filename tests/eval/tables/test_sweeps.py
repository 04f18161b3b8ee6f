"""Sweeps as tables: every number in its cell, the protocol in words, damage by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.tables.main import Cell
from eval.tables.sweeps import Sweep, point_text, read_sweeps, settings_text, sweep_table


@pytest.fixture
def sweep(guidance, tmp_path: Path) -> Sweep:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "guidance.json").write_text(json.dumps(guidance))
    return read_sweeps(tmp_path)["guidance"]


def test_table(sweep: Sweep):
    table = sweep_table(sweep)
    heads = [
        "condition",
        "settings",
        "evals",
        "Frechet ↓",
        "CLIP score ↑",
        "precision ↑",
        "recall ↑",
        "diversity",
        "all right ↑",
    ]
    assert table.columns == heads
    assert [r[0].text for r in table.rows] == ["GLIDE"] * 3 + ["diffusion prior"] * 3
    assert table.rows[5] == [
        Cell("diffusion prior"), Cell("guidance 3.0, steps 8"), Cell("16"), Cell("4.50", "[4.49, 4.52]"),
        Cell("0.300", "[0.290, 0.320]"), Cell("0.50", "[0.49, 0.52]"), Cell("0.25", "[0.24, 0.27]"),
        Cell("2.00", "[1.99, 2.02]"), Cell("0.25", "[0.24, 0.27]"),
    ]  # fmt: skip
    said = "\n".join(table.notes)
    for words in ("n = 512 a point: 256 captions, 2 samples", "attribute classifier 12ab, 64 features",
                  "against 1024 real images (reference, 56ef); both of 32 px",
                  "decoder trained on z_t: the run has no such stages"):  # fmt: skip
        assert words in said


def test_places_on_the_axis(sweep: Sweep):
    assert [sweep.x(p) for p in sweep.of("glide")] == [1.0, 1.5, 3.0] and sweep.conditions == [
        "glide",
        "diffusion_prior",
    ]
    assert sweep.x({"settings": {}, "evaluations": 7}) is None
    by_cost = Sweep("s", "t", "evaluations", "images", sweep.points, [])
    assert by_cost.x({"settings": {}, "evaluations": 7}) == 7


def test_settings_in_words():
    assert settings_text({"decoder.name": "ddim", "prior.guidance_scale": 2}) == "sampler ddim, prior guidance 2"
    assert settings_text({"prior.guidance_scale": 2, "prior.candidates": 4}) == "guidance 2, best of 4"
    assert settings_text({}) == "as trained"


DDIM = {"sampler": "ddim", "steps": 8, "guidance": 1.5}


def test_a_point_as_trained_says_what_that_is():
    def text(settings, **drawn):
        return point_text({"settings": settings, "drawn": drawn})

    assert text({}, prior=DDIM) == "as trained (ddim, 8 steps, guidance 1.5)"
    assert text({}, prior={**DDIM, "candidates": 2}) == "as trained (ddim, 8 steps, guidance 1.5, best of 2)"
    decoder = {"sampler": "dpm_solver_pp", "steps": 4, "guidance": 1.0}
    both = "as trained (decoder: dpm_solver_pp, 4 steps, guidance 1; prior: ddim, 8 steps, guidance 1.5)"
    assert text({}, decoder=decoder, prior=DDIM) == both
    assert text({"prior.steps": 4}, prior=DDIM) == "steps 4"  # as it was set
    assert text({}) == text({}, prior={}) == "as trained"  # a linear prior has nothing to set
    assert point_text({"settings": {}}) == "as trained"  # of an older release


def test_the_table_names_what_was_trained(guidance):
    guidance["points"] = [{**guidance["points"][0], "settings": {}, "drawn": {"decoder": DDIM}}]
    assert sweep_table(Sweep(**guidance)).rows[0][1] == Cell("as trained (ddim, 8 steps, guidance 1.5)")


def test_damage_and_mixed_protocols(guidance, tmp_path: Path):
    path = tmp_path / "x.json"
    for text in ("{", "{}", "[]"):
        path.write_text(text)
        with pytest.raises(InputError, match="cannot read the sweep"):
            Sweep.load(path)
    guidance["points"][1]["protocol"]["captions"] = 3
    path.write_text(json.dumps(guidance))
    with pytest.raises(InputError, match="captions = 256 and glide with 3"):
        Sweep.load(path)
    assert read_sweeps(tmp_path / "nowhere") == {}


def test_what_the_intervals_of_recall_are(guidance):
    assert "over real images (binomial), for these samples" in "\n".join(sweep_table(Sweep(**guidance)).notes)
    for p in guidance["points"]:
        p["protocol"]["recall_interval"] = "over captions and real images"
    assert "Intervals of recall: over captions and real images." in sweep_table(Sweep(**guidance)).notes


def test_whose_statistics_the_analytic_samplers_have(guidance):
    assert "Analytic" not in "\n".join(sweep_table(Sweep(**guidance)).notes)
    guidance["points"][1]["score_statistics"] = 128
    assert "statistics of the score from 128 of the real images" in "\n".join(sweep_table(Sweep(**guidance)).notes)


def test_warnings_are_said_once(guidance, tmp_path: Path):
    for p in guidance["points"]:
        p["warnings"] = ["n is small"]
    assert sweep_table(Sweep(**guidance)).notes.count("n is small") == 1
