"""`unclip sweep`: points are what `unclip sample` draws, resumed where they are there, and refused by name if wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules import scenes
from eval.attributes import AttributeClassifier, export_classifier
from eval.samples import SampleFolder
from eval.sweeps import read_sweeps
from experiments.cli import main
from experiments.sweep import Plan
from modules.errors import InputError
from modules.pipeline import UnCLIP

PLAN = {
    "name": "small",
    "title": "A small sweep",
    "axis": "decoder.guidance_scale",
    "conditions": ["glide", "diffusion_prior", "text_decoder"],
    "captions": 8,
    "bootstrap": 10,
    "fixed": {"decoder.steps": 2},
    "points": [{"decoder.guidance_scale": [1.0, 3.0]}],
}
SHIPPED = sorted((Path(__file__).parents[2] / "experiments" / "protocols").glob("[!c]*.yaml"))


@pytest.fixture(scope="module")
def base(stored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights, real images of 8 captions, a reference, and a classifier."""
    run = tmp_path_factory.mktemp("runs") / "small"
    shutil.copytree(stored_run, run)
    config = run / "data.yaml"
    init = "{image_size: 16, train_size: 8, val_size: 12, test_size: 8, cache_dir: null}"
    config.write_text(f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {init}}}")
    for split, name, n in (("test", "real", 8), ("val", "reference", 12)):
        words = ["--config", str(config), "--split", split, "--captions", str(n), "--out", str(run / "samples" / name)]
        assert main(["data", "export", *words]) == 0
    torch.manual_seed(0)
    attributes = {name: list(classes) for name, classes in scenes.ATTRIBUTES.items()}
    export_classifier(
        AttributeClassifier(attributes, image_size=16, width=4, features=6), run / "classifier" / "export"
    )
    return run


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base, tmp_path / "run")
    return tmp_path / "run"


def sweep(run: Path, *words: str, **changes) -> int:
    path = run.parent / "sweep.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return main(["sweep", str(path), "--run", str(run), *words])


def test_points_are_what_sample_draws(run: Path, capsys: pytest.CaptureFixture):
    assert sweep(run) == 0
    found = read_sweeps(run)["small"]
    assert [(p["condition"], p["settings"]["decoder.guidance_scale"], p["evaluations"]) for p in found.points] == [
        ("glide", 1.0, 2), ("glide", 3.0, 4), ("diffusion_prior", 1.0, 2), ("diffusion_prior", 3.0, 4),
    ]  # fmt: skip
    assert found.missing == ["text_decoder"] and "the run has no such stages" in capsys.readouterr().out
    words = ["--captions", str(run / "samples" / "real" / "manifest.jsonl"), "--condition", "diffusion_prior"]
    words += ["--decoder-steps", "2", "--decoder-guidance", "3", "--no-upsample", "--out", str(run.parent / "drawn")]
    assert main(["sample", "--run", str(run), *words]) == 0
    drawn, point = SampleFolder.open(run.parent / "drawn"), SampleFolder.open(run / found.points[3]["folder"])
    assert drawn.captions == point.captions
    assert (drawn.images().int() - point.images().int()).abs().max() <= 1
    plain = SampleFolder.open(run / found.points[2]["folder"])
    assert (plain.images().int() - point.images().int()).abs().float().mean() > 1  # guidance does something


def test_measured_points_are_kept_and_changed_ones_are_not(run: Path):
    def times() -> dict[str, int]:
        return {p.parent.name: p.stat().st_mtime_ns for p in run.glob("sweeps/small/*/metrics.json")}

    sweep(run, conditions=["glide"], captions=9)  # refused: there are 8
    assert sweep(run, "--captions", "8", conditions=["glide"], captions=9) == 0
    before = times()
    sweep(run, conditions=["glide"], points=[{"decoder.guidance_scale": [1.0, 3.0, 4.0]}])
    after = times()
    assert len(before) == 2 and len(after) == 3 and before.items() <= after.items()
    sweep(run, conditions=["glide"], seed=1)
    assert all(time != after[name] for name, time in times().items() if name in before)
    seeded = times()
    classifier = run / "classifier" / "export" / "config.yaml"
    classifier.write_text(classifier.read_text() + "\n")
    sweep(run, conditions=["glide"], seed=1)
    assert all(time != seeded[name] for name, time in times().items() if name in before)


def test_embeddings_without_a_decoder(run: Path):
    shutil.rmtree(run / "decoder")
    points = [{}, {"conditions": ["ar_prior"], "prior.percentile": [50, 95]}]
    assert sweep(run, space="embeddings", conditions=["linear_prior"], points=points, fixed={}, per_caption=2) == 0
    linear, ar, _ = read_sweeps(run)["small"].points
    system, real = UnCLIP(run), SampleFolder.open(run / "samples" / "real")
    tokens, z_t = system.embed_text(real.captions)
    z_i, true = system.sample_prior("linear_prior", tokens, z_t, []), system.embed_image(real.images() / 127.5 - 1)
    assert linear["cosine_true"]["value"] == pytest.approx((z_i * true).sum(1).mean().item(), abs=1e-5)
    assert linear["cosine_text"]["value"] == pytest.approx((z_i * z_t).sum(1).mean().item(), abs=1e-5)
    assert linear["evaluations"] == 1 and ar["evaluations"] == 12 and linear["n"] == 16
    assert linear["diversity"]["value"] == pytest.approx(0, abs=1e-6) and ar["diversity"]["value"] > 0


def test_the_ceiling_is_given_each_samples_own_image(run: Path):
    words = ["--config", str(run / "data.yaml"), "--captions", "8", "--per-caption", "2", "--overwrite"]
    assert main(["data", "export", *words, "--out", str(run / "samples" / "real")]) == 0
    plan = {"conditions": ["image_embedding"], "fixed": {}, "points": [{}], "per_caption": 2}
    assert sweep(run, space="embeddings", **plan) == 0
    (point,) = read_sweeps(run)["small"].points
    assert point["cosine_true"]["value"] == pytest.approx(1, abs=1e-5)
    z_i = UnCLIP(run).embed_image(SampleFolder.open(run / "samples" / "real").images() / 127.5 - 1).double()
    apart = (z_i[::2] - z_i[1::2]).norm(dim=1)
    assert apart.min() > 1e-3 and point["diversity"]["value"] == pytest.approx(apart.mean().item(), rel=1e-3)


def test_expansion():
    plan = Plan(
        **{**PLAN, "points": [{"decoder.name": ["a", "b"], "decoder.steps": [1, 2]}, {"conditions": ["glide"]}]}
    )
    points = plan.expand()
    assert len(points) == 3 * 4 + 1 and points[-1] == ("glide", {"decoder.steps": 2})
    assert points[1] == ("glide", {"decoder.steps": 2, "decoder.name": "a"})
    assert len(Plan(**{**PLAN, "points": [{"decoder.steps": [1, 1]}]}).expand()) == 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps(path: Path):
    plan = Plan.load(path)
    assert plan.name == path.stem and len(plan.expand()) > 2
    if plan.axis != "evaluations":
        assert all(plan.axis in settings for _, settings in plan.expand())


BAD = {
    "unknown key 'pionts'": {"pionts": []},
    "space is 'images' or 'embeddings', found 'x'": {"space": "x"},
    "captions must be 1 or more, found 0": {"captions": 0},
    "'steps' is no setting; write STAGE.SETTING": {"points": [{"steps": 3}]},
    "holds 8 captions, the sweep small asks for 9": {"captions": 9},
    "unknown condition 'glyde'": {"conditions": ["glyde"]},
    "holds no stages for any of text_decoder": {"conditions": ["text_decoder"]},
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line(run: Path, capsys: pytest.CaptureFixture, line: str):
    assert sweep(run, **BAD[line]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "\n" not in error and not (run / "sweeps").exists()


def test_no_such_file(tmp_path: Path):
    with pytest.raises(InputError, match="cannot read the sweep"):
        Plan.load(tmp_path / "nowhere.yaml")
    (tmp_path / "x.yaml").write_text("name: x")
    with pytest.raises(InputError, match="it needs name, title"):
        Plan.load(tmp_path / "x.yaml")


def test_tables_and_figures_of_a_run(run: Path, capsys: pytest.CaptureFixture):
    sweep(run, name="guidance")
    assert main(["tables", str(run)]) == 0 and main(["figures", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "Ablation of section 5.1" in printed and "not made: sampler" in printed
    names = {path.name for path in (run / "tables").iterdir()}
    assert {"ablation.md", "ablation.tex", "ablation.csv", "table_2_fid.csv", "sweep_guidance.md"} <= names
    assert (run / "figures" / "figure_11_guidance.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (run / "figures" / "figure_11_guidance.svg").read_text()
    best = min(p["frechet"]["value"] for p in read_sweeps(run)["guidance"].of("glide"))
    assert f"| {best:.2f} [" in (run / "tables" / "ablation.md").read_text()
    assert np.isfinite(best)
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Ablation of section 5.1" in page and "figure 11 guidance" in page
    assert json.loads((run / "results.json").read_text())["rows"] == []
