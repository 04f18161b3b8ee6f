"""`unclip sweep`: points are what `unclip sample` draws, resumed where they are there, and refused by name if wrong."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
import yaml

from datamodules.rendered import scenes
from eval.judges.attributes import AttributeClassifier, export_classifier
from eval.measure import content_digest
from eval.protocol import captions_digest
from eval.samples.folder import SampleFolder
from eval.tables.sweeps import read_sweeps
from experiments.cli import main
from experiments.sampling.captions import Request
from experiments.sampling.score_statistics import Statistics
from experiments.sweeps.drawing import PointJob
from experiments.sweeps.options import sweep as parser
from experiments.sweeps.plan import Plan
from experiments.sweeps.sweep import judged_by
from modules.diffusion.analytic import estimate_statistics
from modules.diffusion.denoiser import as_denoiser
from modules.diffusion.schedules import respace
from modules.errors import InputError
from modules.manipulations.ranking import Best
from modules.models.sampler_names import SamplerName
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
SHIPPED = sorted((Path(__file__).parents[3] / "experiments" / "protocols").glob("[!c]*.yaml"))


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


def test_points_of_more_candidates_go_on_from_those_of_fewer(run: Path, tiny, monkeypatch, capsys):
    """They are what `unclip sample --best-of` draws, and all together draw as many candidates as the largest."""
    clip = tiny.write_clip(run / "rank_clip", seed=4)
    counted = []
    draw = UnCLIP.draw_low
    monkeypatch.setattr(UnCLIP, "draw_low", lambda *words: counted.append(len(words[1])) or draw(*words))
    changes = {"conditions": ["dalle"], "fixed": {}, "axis": "ranking.best_of"}
    assert sweep(run, points=[{"ranking.best_of": [1, 2, 4]}], **changes) == 0
    assert sum(counted) == 4 * counted[0]  # the third and the fourth candidates together
    assert len(counted) == 3
    found = read_sweeps(run)["small"]
    assert [(found.x(p), p["evaluations"]) for p in found.points] == [(1, 16), (2, 16), (4, 16)]
    words = ["--captions", str(run / "samples" / "real" / "manifest.jsonl"), "--condition", "dalle", "--no-upsample"]
    words += ["--best-of", "4", "--rank-clip", str(clip), "--out", str(run.parent / "drawn")]
    assert main(["sample", "--run", str(run), *words]) == 0
    drawn, point = SampleFolder.open(run.parent / "drawn"), SampleFolder.open(run / found.points[2]["folder"])
    assert (drawn.images().int() - point.images().int()).abs().max() <= 1
    told = [[(r.get("best_of"), r.get("rank_clip")) for r in folder.records] for folder in (drawn, point)]
    assert told[0][: len(told[1])] == told[1] and None not in told[1][0]
    assert "rank_clip" not in SampleFolder.open(run / found.points[0]["folder"]).records[0]
    capsys.readouterr()
    assert sweep(run, "--clip", str(clip), points=[{"ranking.best_of": [2]}], **changes) == 2
    assert "is the CLIP that judges" in capsys.readouterr().err
    assert sweep(run, points=[{"ranking.best_of": [0]}], **changes) == 2
    assert "ranking.best_of is 0" in capsys.readouterr().err


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
    plan = {"space": "embeddings", "axis": "evaluations", "conditions": ["linear_prior"]}
    assert sweep(run, **plan, points=points, fixed={}, per_caption=2) == 0
    linear, ar, _ = read_sweeps(run)["small"].points
    system, real = UnCLIP(run), SampleFolder.open(run / "samples" / "real")
    tokens, z_t = system.embed_text(real.captions)
    z_i, true = system.sample_prior("linear_prior", tokens, z_t, []), system.embed_image(real.images() / 127.5 - 1)
    assert linear["cosine_true"]["value"] == pytest.approx((z_i * true).sum(1).mean().item(), abs=1e-5)
    own = ((z_i @ true.T).argmax(dim=1) == torch.arange(8)).double().mean().item()
    assert linear["finds_own"]["value"] == pytest.approx(own)
    assert linear["cosine_text"]["value"] == pytest.approx((z_i * z_t).sum(1).mean().item(), abs=1e-5)
    assert linear["evaluations"] == 1 and ar["evaluations"] == 12 and linear["n"] == 16
    protocol = linear["protocol"]
    assert protocol["captions_digest"] == captions_digest([row for row in real.records for _ in range(2)])
    assert (protocol["reference"], protocol["reference_digest"]) == ("real", content_digest(real))
    assert linear["diversity"]["value"] == pytest.approx(0, abs=1e-6) and ar["diversity"]["value"] > 0


def test_points_record_how_they_are_drawn(run: Path):
    """Those that were measured before, too: nothing has to be measured again for it."""
    system = UnCLIP(run)
    prior, decoder = system.stage("diffusion_prior").model, system.stage("decoder").model
    own = {"sampler": prior.sampler.name, "steps": prior.sampler.steps, "guidance": prior.sampler.guidance_scale}
    own |= {"candidates": prior.candidates} if prior.candidates > 1 else {}
    plan = {"space": "embeddings", "axis": "evaluations", "conditions": ["diffusion_prior", "linear_prior"]}
    points = [{}, {"conditions": ["diffusion_prior"], "prior.candidates": 3}, {"conditions": ["ar_prior"]}]
    for _ in range(2):
        assert sweep(run, **plan, points=points, fixed={}) == 0
        drawn = [point["drawn"] for point in read_sweeps(run)["small"].points]
        scale = system.stage("ar_prior").model.guidance_scale
        assert drawn == [{"prior": own}, {}, {"prior": {**own, "candidates": 3}}, {"prior": {"guidance": scale}}]
    assert sweep(run, axis="evaluations", conditions=["diffusion_prior"], points=[{}], fixed={}) == 0
    (point,) = read_sweeps(run)["small"].points
    sampler = decoder.sampler
    of_decoder = {"sampler": sampler.name, "steps": sampler.steps, "guidance": sampler.guidance_scale}
    assert point["drawn"] == {"decoder": of_decoder, "prior": own}


def test_the_ceiling_is_given_each_samples_own_image(run: Path):
    words = ["--config", str(run / "data.yaml"), "--captions", "8", "--per-caption", "2", "--overwrite"]
    assert main(["data", "export", *words, "--out", str(run / "samples" / "real")]) == 0
    plan = {"conditions": ["image_embedding"], "axis": "evaluations", "fixed": {}, "points": [{}], "per_caption": 2}
    assert sweep(run, space="embeddings", **plan) == 0
    (point,) = read_sweeps(run)["small"].points
    assert point["cosine_true"]["value"] == pytest.approx(1, abs=1e-5)
    assert point["finds_own"]["value"] == 1
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
    "captions must be 1 or more, found True": {"captions": True},
    "'steps' is no setting; write STAGE.SETTING": {"points": [{"steps": 3}]},
    "'decoder.guidance_scael' is no setting; a decoder of glide has name, steps": {
        "points": [{"decoder.guidance_scale": 1.0, "decoder.guidance_scael": 2.0}]
    },
    "axis is 'evaluations' or a setting of the points, found 'decoder.guidance'": {"axis": "decoder.guidance"},
    "decoder.name must be one of ddpm, ddim, analytic_dpm": {"fixed": {"decoder.name": "dimm"}},
    "decoder.guidance_scale must be a number from -100 to 100, found 'x'": {
        "points": [{"decoder.guidance_scale": [1.0, "x"]}]
    },
    "decoder.guidance_scale must be a number from -100 to 100, found nan": {
        "points": [{"decoder.guidance_scale": float("nan")}]
    },
    "decoder.steps must be a whole number from 1 to 10,000, found 2.5": {"fixed": {"decoder.steps": 2.5}},
    "glide: cannot take 2000 steps of a schedule of 1000": {"fixed": {"decoder.steps": 2000}},
    "decoder: variance learned needs a stage that was trained with learned sigma": {
        "fixed": {"decoder.name": "ddpm", "decoder.variance": "learned"}, "conditions": ["diffusion_prior"],
    },
    "ar_prior: percentile must be a number of 0 or more, below 100, found 500": {
        "conditions": ["ar_prior"], "fixed": {"prior.percentile": 500}
    },
    "prior.percentile has no effect on glide here": {"fixed": {"prior.percentile": 50}},
    "upsampler.steps has no effect on glide here": {"fixed": {"upsampler.steps": 2}},
    "diffusion_prior: analytic_dpm has no statistics of the score for these 7 timesteps": {
        "conditions": ["diffusion_prior"], "fixed": {"prior.name": "analytic_dpm", "prior.steps": 7}
    },
    "points must be a list of settings as in - {decoder.steps: [4, 8]}, found [1]": {"points": [1]},
    "points hold an empty list": {"points": [{"decoder.guidance_scale": []}]},
    "fixed must be settings as in {decoder.steps: 8}, found [1]": {"fixed": [1]},
    "seed must be a whole number, found 'x'": {"seed": "x"},
    "name must be letters, digits and . _ -": {"name": "../../evil"},
    "conditions must be a list of names, found 'glide'": {"conditions": "glide"},
    "the condition glide gives no embedding": {
        "space": "embeddings", "axis": "evaluations", "points": [{}], "fixed": {}
    },
    "the metrics need 6 samples or more": {"captions": 4},
    "holds 8 captions, the sweep small asks for 9": {"captions": 9},
    "unknown condition 'glyde'": {"conditions": ["glyde"]},
    "holds no stages for any of text_decoder": {"conditions": ["text_decoder"]},
}  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture, line: str):
    before = sorted(base.parent.rglob("*"))
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **BAD[line]}))
    assert main(["sweep", str(path), "--run", str(base)]) == 2
    error = capsys.readouterr().err.strip().removeprefix("unclip: warning").splitlines()
    assert line in error[-1] and len(error) == 1
    assert sorted(base.parent.rglob("*")) == before  # nothing is written, also not outside the run


def export(run: Path, name: str, *words: str) -> Path:
    """Real images of the run's data, into RUN/samples."""
    folder = run / "samples" / name
    assert main(["data", "export", "--config", str(run / "data.yaml"), "--out", str(folder), *words]) == 0
    return folder


def test_the_reference_is_of_the_samples_size_and_of_other_pairs(run: Path, capsys: pytest.CaptureFixture):
    large = export(run, "large", "--split", "val", "--captions", "12", "--size", "32")
    own = export(run, "own", "--split", "test", "--captions", "8", "--size", "32")
    few = export(run, "few", "--split", "val", "--captions", "5")
    capsys.readouterr()
    expected = {
        large: "small holds images of 16x16 pixels, the reference",
        run / "samples" / "real": "holds 8 of the 8 real images of the sampled captions",
        own: "holds 8 of the 8 real images of the sampled captions",
        few: "the metrics need 6 real images or more",
    }
    for folder, line in expected.items():
        assert sweep(run, "--reference", str(folder)) == 2
        error = capsys.readouterr().err.strip()
        assert line in error and "\n" not in error and not (run / "sweeps").exists()
    assert sweep(run, upsample=True, conditions=["glide"]) == 2  # the upsampler makes 32 px
    assert "holds images of 32x32 pixels" in capsys.readouterr().err


def test_the_reference_of_the_decoders_size_is_taken_where_there_is_one(run: Path, capsys: pytest.CaptureFixture):
    shutil.move(run / "samples" / "reference", run / "samples" / "reference_small")
    assert sweep(run, conditions=["glide"]) == 0
    (protocol, _) = (point["protocol"] for point in read_sweeps(run)["small"].points)
    assert protocol["reference"] == "reference_small" and protocol["size"] == [16, 16]
    assert f"(reference_small, {protocol['reference_digest']}); both of 16 px" in " ".join(
        capsys.readouterr().out.split()
    )


def test_other_values_from_the_command_line(run: Path, capsys: pytest.CaptureFixture):
    words = ["--set", "decoder.guidance_scale=2,4", "--set", "decoder.steps=1"]
    assert sweep(run, *words, conditions=["glide"]) == 0
    found = read_sweeps(run)["small"].points
    assert [tuple(p["settings"].values()) for p in found] == [(1, 2), (1, 4)]
    for word, line in {
        "decoder.eta=1": "--set decoder.eta: the sweep has no such setting",
        "decoder.steps=1,2": "takes one value",
        "decoder.steps": "write STAGE.SETTING=VALUE",
        "decoder.guidance_scale=x": "decoder.guidance_scale must be a number from -100 to 100, found 'x'",
    }.items():
        assert sweep(run, "--set", word) == 2 and line in capsys.readouterr().err


def test_inception_of_the_environment_counts(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    options = parser().parse_args(["x", "--run", str(run)])
    monkeypatch.delenv("UNCLIP_INCEPTION", raising=False)
    without = judged_by(options)
    weights = tmp_path / "inception.pt"
    weights.write_bytes(b"weights")
    monkeypatch.setenv("UNCLIP_INCEPTION", str(weights))
    assert judged_by(options) != without
    by_environment = judged_by(options)
    monkeypatch.delenv("UNCLIP_INCEPTION")
    options.inception = str(weights)
    assert judged_by(options) == by_environment


def test_every_sampler_is_in_the_sampler_sweep():
    plan = Plan.load(SHIPPED[0].with_name("sampler.yaml"), {"decoder.steps": [2, 4, 6, 12, 25]})
    names = [settings["decoder.name"] for _, settings in plan.expand()]
    assert sorted(set(names)) == sorted(get_args(SamplerName))
    assert len(names) == 5 * 7  # dpm_solver_pp under guidance too
    guidance = Plan.load(SHIPPED[0].with_name("guidance.yaml"))
    steps = Plan.load(SHIPPED[0].with_name("sampler.yaml")).points[0]["decoder.steps"]
    assert guidance.fixed["decoder.steps"] in steps  # what the other sweep takes is a point of the plot


def test_analytic_samplers_get_statistics_of_the_reference(run: Path, monkeypatch: pytest.MonkeyPatch):
    points = [{"decoder.name": ["ddim", "analytic_ddim", "analytic_dpm"], "decoder.steps": [2, 3]}]
    plan = {"conditions": ["diffusion_prior"], "fixed": {}, "points": points, "axis": "evaluations"}
    assert sweep(run, **plan) == 0
    found = read_sweeps(run)["small"].points
    assert [p["score_statistics"] for p in found] == [None, None, 12, 12, 12, 12]
    system, real = UnCLIP(run), SampleFolder.open(run / "samples" / "reference")
    system.overrides = {"decoder": {"name": "analytic_dpm", "steps": 3}}
    model, images = system.decoder(), real.images() / 127.5 - 1
    condition = model.network.condition(system.clip.tokenize(real.captions), system.embed_image(images))
    how = model.objective, model.sampler
    denoiser = as_denoiser(
        lambda x, t: model.network(x, t, condition),
        how[0].noise_schedule, how[0].parameterization, how[0].learned_sigma, how[1].threshold,
    )  # fmt: skip
    schedule = respace(how[0].noise_schedule, 3, how[1].spacing)
    own = estimate_statistics([(denoiser, images)], schedule, torch.Generator().manual_seed(0))
    Statistics(real, 0).give(system, "decoder")
    given = system.decoder().statistics
    assert given is not None and given.count == 12 and torch.equal(given.timesteps, own.timesteps)
    torch.testing.assert_close(given.mean_squared_epsilon, own.mean_squared_epsilon, rtol=1e-5, atol=1e-6)
    # What a stage was trained with is not estimated again.
    again = Statistics(real, 1)
    again.give(system, "decoder")
    assert torch.equal(system.decoder().statistics.mean_squared_epsilon, given.mean_squared_epsilon)
    assert not again.lacking(system, "decoder")


def test_no_such_file(tmp_path: Path):
    with pytest.raises(InputError, match="cannot read the sweep"):
        Plan.load(tmp_path / "nowhere.yaml")
    (tmp_path / "x.yaml").write_text("name: x")
    with pytest.raises(InputError, match="it needs name, title"):
        Plan.load(tmp_path / "x.yaml")


def removed_with_its_sweep(run: Path, capsys: pytest.CaptureFixture) -> None:
    """Tables and figures of a sweep that is gone go in RUN/tables and RUN/figures; what is not the command's stays."""
    aside, own = run / "guidance.json", run / "tables" / "own.md"
    (run / "sweeps" / "guidance.json").rename(aside)
    own.write_text("mine")
    assert main(["tables", str(run), "--out", str(run / "elsewhere")]) == 0
    assert (run / "tables" / "ablation.md").is_file()
    assert main(["tables", str(run)]) == 0 and main(["figures", str(run)]) == 0
    assert f"removed: {run / 'tables' / 'sweep_guidance.csv'}" in capsys.readouterr().out
    names = {path.name for folder in ("tables", "figures") for path in (run / folder).iterdir()}
    assert own.is_file() and "main.md" in names and not any("guidance" in n or "ablation" in n for n in names)
    aside.rename(run / "sweeps" / "guidance.json")


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
    removed_with_its_sweep(run, capsys)
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Ablation of section 5.1" in page and "<figcaption>Figure 11: Frechet distance" in page
    assert json.loads((run / "results.json").read_text())["rows"] == []


def test_ranked_points_are_drawn_by_the_sweeps_own_decoder():
    """As those that are not ranked: `decoder: decoder_noised` of a sweep's YAML."""
    seen = []
    best = Best(torch.zeros(1, 3, 2, 2), torch.zeros(1), [(0, 0)], 2)
    system = SimpleNamespace(ranked=lambda *given: seen.append(given) or best)
    how = {"decoder": "decoder_noised", "ranking": "x", "best_of": 2}
    job = PointJob([Request("a", 0, {}, ())], 1, "diffusion_prior", 0, False, {}, **how)
    assert job._ranked(system, ["a"], [0]) == (best.pictures, best.places)
    assert inspect.signature(UnCLIP.ranked).bind(None, *seen[0]).arguments["decoder"] == "decoder_noised"


def test_what_is_no_folder_is_not_written_into(tmp_path, monkeypatch, capsys):
    protocol = Path(__file__).parents[3] / "experiments" / "protocols" / "prior.yaml"
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", str(protocol), "--run", "shipped:shapes"]) == 2
    assert "shipped:shapes is no folder: name a run that was trained" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
