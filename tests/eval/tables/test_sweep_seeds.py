"""Sweeps over training seeds: points are matched by condition and settings, intervals are Student's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.tables.main import Cell
from eval.tables.sweep_seeds import gather_sweeps, point_name, sweep_seeds_table
from eval.tables.sweeps import Sweep

PROTOCOL = {"n": 4, "captions": 4, "per_caption": 1, "level": 0.95, "bootstrap": 9, "reference_n": 9, "clip": "a"}


def point(steps: int | None, cosine: float, **protocol) -> dict:
    settings = {} if steps is None else {"prior.steps": steps}
    intervals = {"frechet": {"value": 1.0, "low": 0, "high": 2}, "cosine_true": {"value": cosine, "low": 0, "high": 1}}
    about = {"condition": "diffusion_prior", "settings": settings, "evaluations": steps, "folder": "x"}
    return {**about, **intervals, "protocol": {**PROTOCOL, **protocol}}


def write(run: Path, points: list[dict]) -> Path:
    (run / "sweeps").mkdir(parents=True)
    about = {"name": "league", "title": "League", "axis": "evaluations", "space": "embeddings", "missing": []}
    (run / "sweeps" / "league.json").write_text(json.dumps({**about, "points": points}))
    return run


def test_points_are_matched_and_averaged(tmp_path: Path):
    runs = [
        write(tmp_path / "0", [point(2, 0.5, seed=0), point(6, 0.7, seed=0), point(None, 0.1, seed=0)]),
        write(tmp_path / "1", [point(6, 0.8, seed=1), point(2, 0.6, seed=1)]),
    ]
    (sweep, found) = gather_sweeps(runs)["league"]
    assert found == {
        "diffusion_prior: steps 2": {"frechet": [1.0, 1.0], "cosine_true": [0.5, 0.6]},
        "diffusion_prior: steps 6": {"frechet": [1.0, 1.0], "cosine_true": [0.7, 0.8]},
    }
    table = sweep_seeds_table(sweep, found, 2)
    half = 12.7062047 * 0.05  # Student's quantile of one degree of freedom, half the difference
    wanted = Cell("0.750", f"[{0.75 - half:.3f}, {0.75 + half:.3f}]")
    assert [row[1] for row in table.rows] == [Cell("steps 2"), Cell("steps 6")] and wanted in table.rows[1]
    with pytest.raises(InputError, match="2 replicas or more, found 1"):
        sweep_seeds_table(sweep, found, 1)


def test_replicas_of_different_clips_are_left_out(tmp_path: Path):
    runs = [write(tmp_path / name, [point(2, 0.5, clip=name)]) for name in ("a", "b")]
    assert gather_sweeps(runs) == {}
    assert gather_sweeps([runs[0], write(tmp_path / "c", [point(2, 0.4)])])["league"][1] != {}


def test_a_points_name():
    """Files of claims hold it, so it names no sampler; the table does."""
    trained = {**point(None, 0), "drawn": {"prior": {"sampler": "ddim", "steps": 8, "guidance": 1.5}}}
    assert point_name(trained) == point_name(point(None, 0)) == "diffusion_prior: as trained"
    found = {point_name(trained): {"frechet": [1.0, 2.0]}}
    table = sweep_seeds_table(Sweep("a", "A", "evaluations", "embeddings", [trained], []), found, 2)
    assert table.rows[0][1] == Cell("as trained (ddim, 8 steps, guidance 1.5)")
