"""`unclip study`: replicas become means with intervals, and a part of a training is a step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from experiments.captioning.study import merged, step_of, tables
from experiments.cli import main


def replica(value, gap):
    interval = {"value": value, "low": value - 9, "high": value + 9}
    names = ("colour", "shape", "size", "background", "relation", "all", "clip_score")
    point = {"prompts": "descriptive", "model": "true_95", "part": 3, "n": 5, "step": 90}
    claim = {"paper": "p", "label": "x", "metric": "all", "n": 5}
    return {
        "over": "prompts",
        "points": [{**point, **dict.fromkeys(names, interval)}],
        "claims": [{**claim, "difference": {"value": gap, "low": gap - 9, "high": gap + 9}}],
        "trace": [],
    }


def test_replicas_are_means_with_students_interval_over_them():
    found = merged([replica(0.1, 0.3), replica(0.2, 0.3), replica(0.3, 0.3)])
    half = 4.302652729911275 * 0.1 / 3**0.5
    assert found["points"][0]["all"] == pytest.approx({"value": 0.2, "low": 0.2 - half, "high": 0.2 + half})
    assert found["claims"][0]["difference"] == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})
    assert found["over"] == "3 training seeds"
    claims, points = tables(found)
    assert claims.rows[0][-1].text == "agrees" and len(points.rows) == 1
    assert merged([replica(0.1, 0.3)]) == replica(0.1, 0.3)


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
