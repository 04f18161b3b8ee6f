"""The quickstart itself, from nothing to results.json and report.html: all of its stages, with two steps each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.trials.small import write_quickstart
from eval.samples.folder import SampleFolder
from experiments.cli import main
from experiments.suites.suite import load_suite

PRIORS = ["linear_prior", "ar_prior", "diffusion_prior"]
CONDITIONS = ["caption_only", "glide", "text_embedding", *PRIORS, "image_embedding", "real"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The quickstart's files, shrunk."""
    folder = tmp_path_factory.mktemp("whole")
    write_quickstart(folder)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    for name in ("UNCLIP_PROGRESS", "UNCLIP_RUN", "UNCLIP_INCEPTION", "UNCLIP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(folder)
    # Stages are forked; `unclip` as a program of its own is what test_reproduce.py and test_resume.py start.
    monkeypatch.setattr("experiments.suites.runner.StageProcess", refused)
    return folder


def refused(words: list[str], *rest: object) -> None:
    pytest.fail(f"{words} was started as a program of its own")


def reproduce(*words: str) -> int:
    return main(["reproduce", "experiments/quickstart/suite.yaml", *words])


def state(run: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, and its size."""
    found = {str(path): path.stat() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


@pytest.mark.timeout(1200)  # On a machine that has other things to do.
def test_the_quickstart(here, monkeypatch, capsys):
    code = reproduce()
    out = capsys.readouterr().out
    assert code == 0, out
    stages = list(load_suite(Path("experiments/quickstart/suite.yaml")).stages)
    assert len(stages) == 29
    assert "Traceback" not in out and "real images (floor)" in out  # The table is shown.

    run = Path("runs/quickstart")
    results = json.loads((run / "results.json").read_text())
    assert [row["condition"] for row in results["rows"]] == CONDITIONS
    for row in results["rows"]:
        assert row["n"] == 8
        for key in ("frechet", "clip_score", "diversity"):
            assert row[key]["low"] <= row[key]["value"] <= row[key]["high"], (row["condition"], key)
        assert {"colour", "shape", "size", "background", "count", "relation", "all"} <= set(row["accuracy"])
    assert {"background", "colour", "shape"} <= set(results["clip_probe"])
    # The report counts with its seconds so far; the last two start after it.
    assert set(results["seconds"]) == set(stages) - {"tables", "figures"}
    assert all(value > 0 for value in results["seconds"].values())
    assert "data:image/png" in (run / "report.html").read_text()
    assert "GLIDE" in (run / "tables.md").read_text()
    for name in ("guidance", "sampler", "prior"):
        points = json.loads((run / "sweeps" / f"{name}.json").read_text())["points"]
        assert {point["condition"] for point in points} <= set(CONDITIONS) and points
        assert f"{name.capitalize()} sweep" in (run / "report.html").read_text()
    assert "| AR prior |" in (run / "tables" / "main.md").read_text()
    assert list((run / "figures").glob("*.svg")) and (run / "manipulations" / "inpaint" / "figure.png").exists()

    folders = {name: SampleFolder.open(run / "samples" / name) for name in CONDITIONS}
    assert all(folder.captions == folders["real"].captions for folder in folders.values())
    assert all(folder.size == (128, 128) for folder in folders.values())
    assert len({tuple(record["sha256"] for record in folder.records) for folder in folders.values()}) == len(CONDITIONS)

    # The second call computes nothing.
    before = state(run)
    monkeypatch.setattr("experiments.suites.runner.ForkServer", refused)
    assert reproduce() == 0
    assert "all stages are up to date" in capsys.readouterr().out
    assert state(run) == before

    # The CLIP that gave the embeddings is no judge of what was made from them.
    words = ["--reference", str(run / "samples/reference"), "--clip", str(run / "clip/export"), "--bootstrap", "2"]
    assert main(["evaluate", str(run / "samples/glide"), *words]) == 2
    assert "is the CLIP that" in capsys.readouterr().err


def test_a_changed_yaml_runs_its_stage_and_what_depends_on_it(here, capsys):
    if not Path("runs/quickstart/results.json").exists():
        pytest.skip("the test above makes it")
    path = Path("experiments/quickstart/diffusion_prior.yaml")
    text = path.read_text()
    path.write_text(text.replace("drop_text: 0.1", "drop_text: 0.2"))
    try:
        assert reproduce("--dry-run") == 0
    finally:
        path.write_text(text)
    lines = capsys.readouterr().out.splitlines()[1:]
    would = {line.split()[0] for line in lines if "would run" in line}
    sweeps = {"sweep_guidance", "sweep_sampler", "sweep_prior", "gallery"}
    assert would == {"diffusion_prior", "sample_diffusion_prior", "evaluate", "report", "tables", "figures"} | sweeps
    assert any("drop_text: 0.1 -> 0.2" in line for line in lines)


def test_ms_coco_zero_shot(here, coco, tmp_path, capsys):
    """The commands of docs/protocols.md, from an ordinary COCO folder to Table 2, with the run's own pictures."""
    import timm
    import torch
    from safetensors.torch import save_file

    run = Path("runs/quickstart").absolute()
    if not (run / "results.json").exists():
        pytest.skip("the first test makes it")
    protocol = tmp_path / "dry.yaml"
    protocol.write_text("{name: dry, captions: 6, size: 128}")
    out = tmp_path / "runs" / "coco"
    folder = ["--annotations", str(coco / "captions_val2014.json"), "--images", str(coco / "val2014")]
    assert main(["coco", *folder, "--out", str(out), "--protocol", str(protocol)]) == 0
    samples = out / "samples" / "diffusion_prior"
    words = ["--captions", str(out / "captions.jsonl"), "--decoder-guidance", "1.25", "--out", str(samples)]
    assert main(["sample", "--run", str(run), *words]) == 0
    drawn, real = SampleFolder.open(samples), SampleFolder.open(out / "reference")
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert drawn.captions == [line["caption"] for line in lines] and drawn.caption_index.tolist() == list(range(6))
    assert drawn.size == real.size == (128, 128) and (len(drawn), len(real)) == (6, 12)
    assert drawn.records[0]["guidance"]["decoder"] == 1.25

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "weights.safetensors")
    judges = ["--network", f"test_vit={tmp_path / 'weights.safetensors'}", "--clip", str(run / "eval_clip" / "export")]
    assert main(["evaluate", str(samples), "--reference", str(out / "reference"), *judges, "--bootstrap", "5"]) == 0
    row = json.loads((samples / "metrics.json").read_text())
    assert row["n"] == 6 and row["protocol"]["reference_n"] == 12 and row["protocol"]["size"] == [128, 128]
    assert row["frechet"]["value"] > 0 and row["clip_score"] is not None and row["accuracy"] is None
    assert main(["tables", str(out)]) == 0
    table = (out / "tables" / "table_2_fid.md").read_text()
    assert "GLIDE (paper)" in table and "n = 6 against 12 real images" in table
    assert "Other data and counts than the paper's" in table
    capsys.readouterr()

    # The CLIP that the pictures were made with is no judge of them, also outside the run that made them.
    words = ["--reference", str(out / "reference"), "--clip", str(run / "clip" / "export"), "--bootstrap", "5"]
    assert main(["evaluate", str(samples), *words]) == 2
    assert "is the CLIP that" in capsys.readouterr().err
