"""`unclip study`: replicas become means with intervals, and a part of a training is a step."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml

from datamodules.rendered import scenes
from eval.judges.attributes import AttributeClassifier, export_classifier
from experiments.captioning.study import merged, replicas_of, step_of, tables
from experiments.cli import main
from modules.errors import InputError


def replica(value, gap):
    interval = {"value": value, "low": value - 9, "high": value + 9}
    names = ("colour", "shape", "size", "background", "relation", "all", "clip_score")
    point = {"prompts": "descriptive", "model": "true_95", "part": 3, "n": 5, "step": 90}
    claim = {"paper": "p", "label": "x", "metric": "all", "n": 5}
    return {
        "over": "prompts",
        "prompts": {"descriptive": "a", "synthetic": str(value)},
        "points": [{**point, **dict.fromkeys(names, interval)}],
        "claims": [{**claim, "difference": {"value": gap, "low": gap - 9, "high": gap + 9}}],
        "forms": [{"form": "form_capital", "model": "true_95", "difference": interval}],
        "captions": [{"source": "synthetic", "faultless": {"value": value}, "wrong shape": {"value": value}}],
        "trace": [{"model": "true_95", "attribute": "shape", "pictures": 5, "explained": interval, "caused": None}],
    }


def test_replicas_are_means_with_students_interval_over_them():
    found = merged([replica(0.1, 0.3), replica(0.2, 0.3), replica(0.3, 0.3)])
    half = 4.302652729911275 * 0.1 / 3**0.5
    assert found["points"][0]["all"] == pytest.approx({"value": 0.2, "low": 0.2 - half, "high": 0.2 + half})
    assert found["claims"][0]["difference"] == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})
    assert found["over"] == "3 training seeds"
    for row, name in ((found["forms"][0], "difference"), (found["trace"][0], "explained")):
        assert row[name] == found["points"][0]["all"]
    half = found["captions"][0]["wrong shape"]
    assert half == pytest.approx(found["points"][0]["all"])
    claims, points, forms, captions, traces = tables(found)
    assert captions.rows[0][1].text == "0.200" and captions.rows[0][1].interval
    assert claims.rows[0][-1].text == "agrees" and len(points.rows) == 1
    assert len(forms.rows) == 2 and traces.rows[0][5].text == "0.200"
    for table in (claims, points, forms, captions, traces):
        assert "over 3 training seeds" in table.notes[0]
    assert merged([replica(0.1, 0.3)]) == replica(0.1, 0.3)


def test_a_number_that_a_replica_lacks_has_no_mean():
    """Not the first replica's interval, which is one over prompts."""
    without = replica(0.2, 0.3)
    without["points"][0]["relation"] = None
    for both in ([replica(0.1, 0.3), without], [without, replica(0.1, 0.3)]):
        (point,) = merged(both)["points"]
        assert point["relation"] is None and point["all"]["value"] == pytest.approx(0.15)


def test_replicas_of_other_prompts_are_refused():
    other = replica(0.2, 0.3)
    other["prompts"]["descriptive"] = "b"
    with pytest.raises(InputError, match=r"drawn from different prompts .true descriptive prompts"):
        merged([replica(0.1, 0.3), other])


def test_a_replica_of_an_older_version_is_named(tmp_path):
    folder = tmp_path / "seeds" / "1"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text('{"points": [], "claims": [], "trace": []}')
    with pytest.raises(InputError, match=r"study.json: it lacks 'prompts'; make it again: unclip study .*seeds/1"):
        replicas_of(tmp_path)


def test_the_step_of_a_part_is_read_from_the_decoders_config(tmp_path):
    callbacks = [{"class_path": "experiments.training.trainer.exports.ExportParts", "init_args": {"parts": 3}}]
    (tmp_path / "true_95").mkdir()
    content = yaml.safe_dump({"trainer": {"max_steps": 100, "callbacks": callbacks}})
    (tmp_path / "true_95" / "config.yaml").write_text(content)
    assert step_of(tmp_path, SimpleNamespace(model="true_95", part=2)) == 66
    assert step_of(tmp_path, SimpleNamespace(model="short_95", part=2)) is None


def test_a_run_without_the_studys_pictures_is_one_line(tmp_path, capsys):
    assert main(["study", str(tmp_path)]) == 2
    assert "has no samples/PROMPTS-MODEL-PART" in capsys.readouterr().err


DATA = """
data:
  class_path: datamodules.shapes.ShapesDataModule
  init_args: {{image_size: 16, batch_size: 8, train_size: 16, val_size: 8, test_size: 24, cache_dir: null,
    captions: {{columns: {{it: {channel}}}, shares: {{it: 1.0}}}}}}
"""


def test_a_run_is_judged_from_its_folders(tmp_path, tiny):
    """The decoders' pictures here are the real ones, so that every number is known, whatever the judges see."""
    run = tmp_path / "run"
    attributes = {name: list(classes) for name, classes in scenes.ATTRIBUTES.items()}
    export_classifier(AttributeClassifier(attributes, image_size=16, width=4, features=5), run / "classifier")
    shutil.copytree(tiny.write_clip(tmp_path / "clip"), run / "eval_clip" / "export")
    for name, channel in (("descriptive", "descriptive"), ("synthetic", "descriptive"), ("ground_truth", "alt_text")):
        config = tmp_path / f"{name}.yaml"
        config.write_text(DATA.format(channel=channel))
        words = ["--split", "test", "--captions", "12", "--out", str(run / "prompts" / name)]
        assert main(["data", "export", "--config", str(config), *words]) == 0
        for model in ("true_95", "descriptive_95"):
            shutil.copytree(run / "prompts" / name, run / "samples" / f"{name}-{model}-3")
    shutil.copytree(run / "prompts" / "descriptive", run / "samples" / "form_capital-descriptive_95-3")
    assert main(["study", str(run), "--bootstrap", "20"]) == 0
    found = json.loads((run / "study.json").read_text())

    points = {(point["prompts"], point["model"]): point for point in found["points"]}
    assert len(points) == 3 * 3 + 1 and points["synthetic", "real"]["n"] == 12
    for prompts in ("descriptive", "synthetic", "ground_truth"):
        real = points[prompts, "real"]
        for model in ("true_95", "descriptive_95"):
            drawn = points[prompts, model]
            assert {k: v for k, v in drawn.items() if isinstance(v, dict)} == {
                k: v for k, v in real.items() if isinstance(v, dict)
            }
    by_label = {(claim["label"], claim["metric"]): claim["difference"] for claim in found["claims"]}
    gap = "95 % true descriptive − 95 % descriptive synthetic, true descriptive prompts"
    assert by_label[gap, "shape"] == {"value": 0, "low": 0, "high": 0}
    assert [change["difference"]["value"] for change in found["forms"]] == [0]
    for row in found["trace"]:  # true captions: no mistake that could be traced
        assert row["wrong_captions"]["value"] == 0 and row["explained"] in (None, {**row["explained"], "value": 0})
    assert {row["model"] for row in found["trace"]} == {"true_95", "descriptive_95"}

    (run / "seeds" / "1").mkdir(parents=True)
    shutil.copy(run / "study.json", run / "seeds" / "1")
    assert main(["study", str(run), "--bootstrap", "20"]) == 0
    both = json.loads((run / "study.json").read_text())
    assert both["over"] == "2 training seeds" and len(both["points"]) == len(found["points"])
    score = points["descriptive", "real"]["clip_score"]["value"]
    (point,) = [p for p in both["points"] if (p["prompts"], p["model"]) == ("descriptive", "real")]
    assert point["clip_score"] == pytest.approx({"value": score, "low": score, "high": score})
    assert "Changes of form" in (run / "study.md").read_text()
