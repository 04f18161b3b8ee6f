"""The pictures of a sweep's points: the same to the bit however they are drawn, gone on with inside a point."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.trials.forked import Forked
from datamodules.rendered import scenes
from eval.judges.attributes import AttributeClassifier, export_classifier
from eval.samples.folder import SampleFolder
from eval.tables.sweeps import read_sweeps
from experiments.cli import main
from modules.images.tensors import to_uint8
from modules.pipeline import UnCLIP
from modules.seeds import image_generators

ROOT = Path(__file__).parents[3]
PLAN = {
    "name": "drawn",
    "title": "Drawn",
    "axis": "decoder.guidance_scale",
    "conditions": ["glide", "text_decoder", "diffusion_prior", "image_embedding"],
    "captions": 6,
    "per_caption": 2,
    "bootstrap": 5,
    "fixed": {"decoder.steps": 2},
    "points": [{"decoder.guidance_scale": [1.0, 2.0]}],
}


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch):
    """As in the processes: sums over other numbers of threads may round otherwise."""
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(stored_run: Path, tmp_path: Path, one_thread) -> Path:
    """A run with random weights, a decoder on z_t among them, real images, a reference and a classifier."""
    run = tmp_path / "run"
    shutil.copytree(stored_run, run)
    shutil.copytree(run / "decoder", run / "text_decoder")
    config = run / "text_decoder" / "export" / "config.yaml"
    about = yaml.safe_load(config.read_text())
    about["init_args"]["embedding"] = "z_t"
    config.write_text(yaml.safe_dump(about))
    init = "{image_size: 16, train_size: 8, val_size: 12, test_size: 8, cache_dir: null}"
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {init}}}")
    for split, name, n in (("test", "real", 8), ("val", "reference", 12)):
        words = ["--config", str(config), "--split", split, "--captions", str(n), "--per-caption", "2"]
        assert main(["data", "export", *words, "--out", str(run / "samples" / name)]) == 0
    torch.manual_seed(0)
    attributes = {name: list(classes) for name, classes in scenes.ATTRIBUTES.items()}
    judge = AttributeClassifier(attributes, image_size=16, width=4, features=6)
    export_classifier(judge, run / "classifier" / "export")
    return run


def words(run: Path, **changes) -> list[str]:
    path = run.parent / "sweep.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return ["sweep", str(path), "--run", str(run)]


def pictures(run: Path) -> dict[str, torch.Tensor]:
    return {p["folder"]: SampleFolder.open(run / p["folder"]).images() for p in read_sweeps(run)["drawn"].points}


def numbers(run: Path) -> list[dict]:
    return [{k: v for k, v in p.items() if k != "protocol"} for p in read_sweeps(run)["drawn"].points]


def test_pictures_are_those_of_the_pipeline(run: Path):
    """Written out, in one process and one batch: what a sweep drew before it was a predict run."""
    assert main(words(run)) == 0
    real = SampleFolder.open(run / "samples" / "real")
    rows, places = range(12), [(k // 2, k % 2) for k in range(12)]
    assert [(real.records[k]["caption_index"], real.records[k]["sample_index"]) for k in rows] == places
    points = {(p["condition"], p["settings"]["decoder.guidance_scale"]): p for p in read_sweeps(run)["drawn"].points}
    assert len(points) == 8
    for (condition, scale), point in points.items():
        decoder = condition if condition in ("glide", "text_decoder") else "decoder"
        system = UnCLIP(run, overrides={decoder: {"steps": 2, "guidance_scale": scale}})
        tokens, z_t = system.embed_text([real.captions[k] for k in rows])
        given = "text_embedding" if condition == "text_decoder" else condition
        images = real.images(0, 12).float() / 127.5 - 1
        z_i = system.embedding(given, tokens, z_t, image_generators(0, places, "prior"), images)
        drawn = to_uint8(system.decode(tokens, z_i, image_generators(0, places, "decoder"), decoder))
        folder = SampleFolder.open(run / point["folder"])
        assert torch.equal(folder.images(), drawn), (condition, scale)
        assert folder.condition == condition and folder.records[3]["settings"] == point["settings"]
        assert [folder.records[3][key] for key in ("caption_index", "sample_index")] == [1, 1]


def test_a_killed_sweep_goes_on_inside_its_point(run: Path, monkeypatch: pytest.MonkeyPatch):
    changes = {"conditions": ["diffusion_prior"], "batch_size": 4}
    assert main(words(run, **changes)) == 0
    expected, measured = pictures(run), numbers(run)
    shutil.rmtree(run / "sweeps")
    decode, count = UnCLIP.decode, []

    def killed(self, tokens, *rest):
        count.append(len(tokens))
        if len(count) == 5:  # in the middle of the second of two points of three batches
            raise KeyboardInterrupt
        return decode(self, tokens, *rest)

    monkeypatch.setattr(UnCLIP, "decode", killed)
    assert main(words(run, **changes)) == 130
    (unfinished,) = (run / "sweeps" / "drawn").glob(".*.sampling")
    assert len(list(unfinished.glob("0*.png"))) == 4
    assert len(list((run / "sweeps" / "drawn").glob("[!.]*"))) == 1
    count[:] = [0] * 9
    assert main(words(run, **changes)) == 0
    assert count[9:] == [4, 4]  # neither the first point nor the finished batch of the second
    found = pictures(run)
    assert all(torch.equal(found[name], expected[name]) for name in expected) and numbers(run) == measured
    assert not list((run / "sweeps" / "drawn").glob(".*"))


def test_unfinished_pictures_of_other_settings_are_dropped(run: Path, monkeypatch: pytest.MonkeyPatch):
    changes = {"conditions": ["glide"], "points": [{"decoder.guidance_scale": 2.0}], "batch_size": 4}
    decode, count = UnCLIP.decode, []

    def killed(self, tokens, *rest):
        count.append(len(tokens))
        if len(count) == 2:
            raise KeyboardInterrupt
        return decode(self, tokens, *rest)

    monkeypatch.setattr(UnCLIP, "decode", killed)
    assert main(words(run, **changes)) == 130
    count[:] = [0] * 9
    assert main(words(run, seed=1, **changes)) == 0
    assert count[9:] == [4, 4, 4]


@pytest.mark.timeout(900)  # Three processes that start one after another, on a machine that may be busy.
def test_two_processes_draw_the_same(run: Path):
    changes = {"conditions": ["text_decoder"], "captions": 8, "per_caption": 10, "fixed": {"decoder.steps": 1}}
    assert main(words(run, **changes)) == 0
    expected, measured = pictures(run), numbers(run)
    shutil.rmtree(run / "sweeps")
    known = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    given = [*words(run, **changes), "--device", "cpu", "--devices", "2"]
    process = Forked(given, ROOT, known, run.parent / "said.txt")
    said, _ = process.communicate(timeout=800)
    assert process.returncode == 0, said
    found = pictures(run)
    assert len(found) == 2 and all(torch.equal(found[name], expected[name]) for name in expected)
    assert numbers(run) == measured
    assert json.loads((run / "sweeps" / "drawn.json").read_text())["name"] == "drawn"
