"""`unclip fit` of the classifier, `unclip evaluate` and `unclip report` on a small run, through the command line."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.rendered import scenes
from eval.errors import InputError
from eval.metrics.frechet import FeatureStatistics, SingularCovariance, frechet_distance
from eval.protocol import check_protocols
from eval.reference import ReferenceStatistics
from eval.samples.folder import SampleFolder, write_samples
from experiments.cli import main
from modules.clip.frozen import FrozenCLIP
from modules.clip.word_tokenizer import WordTokenizer

CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
CLASSIFIER = """
seed_everything: 0
trainer: {{accelerator: cpu, max_steps: 3, val_check_interval: 3, default_root_dir: {folder}}}
model:
  class_path: eval.judges.attributes.AttributeClassifier
  init_args:
    image_size: 16
    width: 4
    features: 6
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.003, fused: true}}}}
    attributes: {attributes}
data:
  class_path: datamodules.shapes.ShapesDataModule
  init_args: {{image_size: 16, batch_size: 8, train_size: 32, val_size: 8, test_size: 24, cache_dir: null,
    train_split: unrestricted}}
"""


def write_clip(folder: Path, seed: int) -> None:
    """A CLIP that has learned nothing, as CLIPTrainer lays it out."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 16, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": preprocess}))
    WordTokenizer(scenes.VOCABULARY, 64, 20).save(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a classifier, two CLIPs, real images, samples of one condition, and a reference."""
    run = tmp_path_factory.mktemp("runs") / "small"
    attributes = json.dumps({name: list(classes) for name, classes in scenes.ATTRIBUTES.items()})
    run.mkdir()
    config = run / "classifier.yaml"
    config.write_text(CLASSIFIER.format(folder=run / "classifier", attributes=attributes))
    assert main(["fit", "--config", str(config)]) == 0
    write_clip(run / "clip" / "export", seed=0)
    write_clip(run / "eval_clip", seed=1)
    for out, split in (("samples/real", "test"), ("reference", "val")):
        words = ["--captions", "6", "--per-caption", "2", "--split", split, "--out", str(run / out)]
        assert main(["data", "export", "--config", str(config), *words]) == 0
    real = SampleFolder.open(run / "samples" / "real")
    noise = torch.randint(0, 256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    records = [{**record, "condition": "glide"} for record in real.records]
    write_samples(run / "samples" / "glide", noise, records)
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one test."""
    monkeypatch.delenv("UNCLIP_INCEPTION", raising=False)
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)
    shutil.copytree(made, tmp_path / "small")
    return tmp_path / "small"


def evaluate(run: Path, *words: str, conditions: tuple[str, ...] = ("glide", "real"), **judges: str) -> int:
    options = {"reference": "reference", "classifier": "classifier", "clip": "eval_clip", **judges}
    named = [word for key, value in options.items() if value for word in (f"--{key}", str(run / value))]
    samples = [str(run / "samples" / condition) for condition in conditions]
    return main(["evaluate", *samples, *named, "--bootstrap", "20", *words])


def test_evaluate_and_report(run: Path, capsys: pytest.CaptureFixture):
    assert evaluate(run) == 0
    printed = capsys.readouterr().out
    assert "GLIDE" in printed and "real images (floor)" in printed and "12" in printed
    rows = {name: json.loads((run / "samples" / name / "metrics.json").read_text()) for name in ("glide", "real")}
    assert rows["glide"]["protocol"] == rows["real"]["protocol"]
    assert rows["real"]["frechet"]["value"] < rows["glide"]["frechet"]["value"]
    assert rows["glide"]["accuracy"]["all"]["n"] <= 12 and rows["real"]["shared_with_reference"] == 0

    scalars = EventAccumulator(str(run / "evaluation" / "glide"))
    scalars.Reload()
    assert scalars.Scalars("evaluation/frechet")[0].value == pytest.approx(rows["glide"]["frechet"]["value"], rel=1e-6)
    assert "evaluation/accuracy/colour" in scalars.Tags()["scalars"]

    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "GLIDE" in printed and str(run / "report.html") in printed
    results = json.loads((run / "results.json").read_text())
    assert [row["condition"] for row in results["rows"]] == ["glide", "real"]
    assert results["rows"][0]["clip_score"] == rows["glide"]["clip_score"]
    assert (run / "tables.md").exists() and "data:image/png" in (run / "report.html").read_text()


def test_clip_score_is_that_of_the_clip_that_the_stages_use(run: Path):
    assert evaluate(run, conditions=("glide",)) == 0
    found = json.loads((run / "samples" / "glide" / "metrics.json").read_text())["clip_score"]["value"]
    clip, folder = FrozenCLIP(str(run / "eval_clip")), SampleFolder.open(run / "samples" / "glide")
    with torch.no_grad():
        z_i = clip.encode_image(folder.images().float() / 127.5 - 1)
        z_t = clip.encode_text(clip.tokenize(folder.captions))
    assert found == pytest.approx((z_i * z_t).sum(1).mean().item(), abs=1e-5)


def test_again_gives_the_same(run: Path):
    evaluate(run)
    before = (run / "samples" / "glide" / "metrics.json").read_text()
    evaluate(run)
    assert (run / "samples" / "glide" / "metrics.json").read_text() == before
    assert len(list((run / "evaluation" / "glide").iterdir())) == 1  # no second curve in TensorBoard
    evaluate(run, "--seed", "1")
    after = json.loads((run / "samples" / "glide" / "metrics.json").read_text())
    assert after["frechet"]["value"] == json.loads(before)["frechet"]["value"]
    assert after["frechet"]["low"] != json.loads(before)["frechet"]["low"]


def test_without_named_judges_those_of_the_run_are_taken(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Of the run that the reference or the samples lie in; a judge that is named stands alone."""
    (run / "eval_clip").rename(run / "own")
    (run / "eval_clip").mkdir()
    (run / "own").rename(run / "eval_clip" / "export")
    assert evaluate(run, clip="eval_clip/export", conditions=("glide",)) == 0
    named = json.loads((run / "samples" / "glide" / "metrics.json").read_text())
    shutil.copytree(run / "reference", run / "samples" / "reference")
    shutil.copytree(run / "samples" / "glide", tmp_path / "elsewhere")
    words = ["--reference", str(run / "samples" / "reference"), "--bootstrap", "20"]
    assert main(["evaluate", str(tmp_path / "elsewhere"), *words]) == 0
    assert json.loads((tmp_path / "elsewhere" / "metrics.json").read_text()) == named
    assert main(["evaluate", str(tmp_path / "elsewhere"), *words, "--clip", str(run / "eval_clip" / "export")]) == 0
    assert json.loads((tmp_path / "elsewhere" / "metrics.json").read_text())["accuracy"] is None
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "elsewhere"), *words, "--clip", str(run / "eval_clip")]) == 0  # the stage
    assert "eval_clip " in capsys.readouterr().out
    words[1] = str(shutil.copytree(run / "reference", tmp_path / "reference"))
    assert main(["evaluate", str(tmp_path / "elsewhere"), *words]) == 2
    assert "nothing to measure with: give one of --classifier" in capsys.readouterr().err


def test_without_a_classifier(run: Path):
    assert evaluate(run, classifier="") == 0
    row = json.loads((run / "samples" / "glide" / "metrics.json").read_text())
    assert row["accuracy"] is None and row["protocol"]["extractor"].startswith("eval_clip ")


def test_out(run: Path, tmp_path: Path):
    assert evaluate(run, "--out", str(tmp_path / "else.json"), conditions=("glide",)) == 0
    assert json.loads((tmp_path / "else.json").read_text())["condition"] == "glide"
    assert not (run / "samples" / "glide" / "metrics.json").exists()


def test_a_folder_outside_a_run_leaves_no_scalars(run: Path, tmp_path: Path):
    shutil.move(run / "samples" / "glide", tmp_path / "mine")
    words = ["--reference", str(run / "reference"), "--classifier", str(run / "classifier"), "--bootstrap", "5"]
    assert main(["evaluate", str(tmp_path / "mine"), *words]) == 0
    assert (tmp_path / "mine" / "metrics.json").exists() and not (run / "evaluation").exists()


BAD = {
    "nowhere does not exist": {"reference": "nowhere"},
    "eval_clip (no config.yaml in it); train it with": {"classifier": "eval_clip"},
    "no CLIP at": {"clip": "nowhere"},
    "is the CLIP that": {"clip": "clip/export"},
    "no Inception weights at": {"inception": "nowhere"},
    "--bootstrap must be 1 or more": {"words": ("--bootstrap", "0")},
    "--seed must be 0 or more, got -1": {"words": ("--seed", "-1")},
    "--out names one file": {"words": ("--out", "x.json")},
    "shares 12 of its 12 images with the reference": {"reference": "samples/real"},
    "missing does not exist": {"conditions": ("glide", "missing")},
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line(run: Path, capsys: pytest.CaptureFixture, line: str):
    given = dict(BAD[line])
    assert evaluate(run, *given.pop("words", ()), **given) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "\n" not in error and "Traceback" not in error
    assert not list(run.glob("samples/*/metrics.json")) and not (run / "evaluation").exists()


def test_the_clip_that_the_manifest_names_is_no_judge(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    glide = SampleFolder.open(run / "samples" / "glide")
    for name, code in (("eval_clip", 2), ("clip/export", 0)):
        records = [{**record, "clip": FrozenCLIP(str(run / name)).fingerprint} for record in glide.records]
        folder = write_samples(tmp_path / "elsewhere" / name, glide.images(), records)
        words = ["--reference", str(run / "reference"), "--clip", str(run / "eval_clip"), "--bootstrap", "5"]
        assert main(["evaluate", str(folder.path), *words]) == code
        assert ("eval_clip is the CLIP that" in capsys.readouterr().err) == (code == 2)


def test_different_counts_are_refused(run: Path, capsys: pytest.CaptureFixture):
    glide = SampleFolder.open(run / "samples" / "glide")
    write_samples(glide.path, glide.images(0, 10), glide.records[:10], overwrite=True)
    assert evaluate(run) == 2
    assert "different counts" in capsys.readouterr().err


def test_different_captions_are_refused_before_anything_is_computed(run: Path, capsys: pytest.CaptureFixture):
    glide = SampleFolder.open(run / "samples" / "glide")
    records = [
        {**r, "caption_index": k // 4, "sample_index": k % 4, "caption": "x"} for k, r in enumerate(glide.records)
    ]
    write_samples(glide.path, glide.images(), records, overwrite=True)  # as many samples, of three captions
    assert evaluate(run, "--write-statistics", str(run / "statistics")) == 2
    error = capsys.readouterr().err
    assert (
        "hold samples of different captions (caption_index 0: " in error and "`unclip sample --captions FILE" in error
    )
    assert not (run / "statistics").exists() and not (run / "features").exists()


def test_unwritable_metrics_are_refused_before_anything_is_computed(run: Path, capsys: pytest.CaptureFixture):
    (run / "samples" / "real" / "metrics.json").mkdir()
    assert evaluate(run, "--write-statistics", str(run / "statistics")) == 2
    assert "real/metrics.json: a folder is in its place" in capsys.readouterr().err
    assert evaluate(run, "--write-statistics", str(run / "classifier.yaml"), conditions=("glide",)) == 2
    assert "classifier.yaml" in capsys.readouterr().err
    for name in ("samples/glide/metrics.json", "statistics", "features", "evaluation"):
        assert not (run / name).exists()


def test_a_disk_that_is_full_in_the_end_leaves_nothing(run: Path, monkeypatch, capsys: pytest.CaptureFixture):
    replace = os.replace

    def refuse(source, target) -> None:
        if Path(target) == run / "samples" / "real" / "metrics.json":  # the last of what is written
            raise OSError(28, os.strerror(28))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert evaluate(run, "--write-statistics", str(run / "statistics")) == 2
    assert "real/metrics.json: No space left on device" in capsys.readouterr().err
    assert not (run / "evaluation").exists() and not list((run / "statistics").iterdir())
    assert not (run / "samples" / "glide" / "metrics.json").exists()


def test_a_table_of_rows_without_protocol(run: Path, capsys: pytest.CaptureFixture):
    assert evaluate(run) == 0
    path = run / "samples" / "glide" / "metrics.json"
    row = json.loads(path.read_text())
    for change, told in (({"protocol": None}, "'protocol'"), ({"protocol": {"n": 12}}, "'captions' of its protocol")):
        path.write_text(json.dumps({**row, **change}))
        for command in ("tables", "report"):
            assert main([command, str(run)]) == 2
            error = capsys.readouterr().err
            assert f"{path} lacks {told}, " in error and "run `unclip evaluate` again" in error
    del row["condition"]
    path.write_text(json.dumps(row))
    assert main(["tables", str(run)]) == 2
    assert "lacks 'condition'" in capsys.readouterr().err


def test_rows_of_an_older_release_and_newer_ones(run: Path, capsys: pytest.CaptureFixture):
    """What 0.1 recorded is still read, but stands in no table with what is recorded now."""
    assert evaluate(run) == 0
    paths = [run / "samples" / name / "metrics.json" for name in ("glide", "real")]
    for k, path in enumerate(paths):
        row = json.loads(path.read_text())
        for key in ("captions_digest", "caption_protocol", "classifier", "reference_size"):
            del row["protocol"][key]
        path.write_text(json.dumps(row))
        assert main(["tables", str(run)]) == (2 if k == 0 else 0)
        told = "of another release, which does not record it" in capsys.readouterr().err
        assert told == (k == 0)
        if told:
            assert main(["figures", str(run)]) == 2 and not (run / "figures").exists()
            assert "of another release, which does not record it" in capsys.readouterr().err


class Stop(Exception):
    """Ends an evaluation where the judges look."""


@pytest.mark.parametrize(
    ("reference", "samples", "words", "expected"),
    [
        ("small/samples/r", "small/samples/glide", (), "small/features"),
        ("coco/reference", "coco/samples/glide", (), "coco/features"),  # as the protocol of MS-COCO lays them
        ("real", "mine", (), None),
        ("coco/reference", "coco/samples/glide", ("--cache", ""), None),
        ("coco/reference", "coco/samples/glide", ("--cache", "here"), "here"),
    ],
)
def test_features_are_memory_maps_wherever_folders_lie(
    run: Path, tmp_path: Path, monkeypatch, reference: str, samples: str, words: tuple[str, ...], expected: str | None
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run / "reference", tmp_path / reference)
    if not (tmp_path / samples).exists():
        shutil.copytree(run / "samples" / "glide", tmp_path / samples)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    found = []

    def seen(folder, seen, *rest):
        features = seen.features["classifier"]
        found.append(Path(features.filename).parent if isinstance(features, np.memmap) else None)
        raise Stop

    monkeypatch.setattr("eval.measure.measure", seen)
    named = ["--reference", reference, "--classifier", str(run / "classifier"), *words]
    with pytest.raises(Stop):
        main(["evaluate", samples, *named])
    if expected is None:
        assert found[0].parent == temporary and found[0].name.startswith("unclip-features-")
    else:
        assert found[0] == tmp_path / expected and len(list(found[0].iterdir())) == 4
    assert list(temporary.iterdir()) == []


def test_a_report_that_a_suite_runs_knows_its_own_seconds(run: Path, monkeypatch: pytest.MonkeyPatch):
    (run / "summary").mkdir()
    began = datetime.now().astimezone() - timedelta(seconds=20)
    record = {"status": "started", "started": began.isoformat(timespec="seconds"), "seconds": 100.0, "command": "x"}
    (run / "summary" / "started.json").write_text(json.dumps(record))
    for variable, expected in ((run / "summary", True), (run.parent / "summary", False)):
        monkeypatch.setenv("UNCLIP_PROGRESS", str(variable / "progress.json"))
        assert main(["report", str(run)]) == 0
        seconds = json.loads((run / "results.json").read_text())["seconds"]
        assert ("summary" in seconds) == expected
        assert not expected or 120 <= seconds["summary"] < 180


def test_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


FEW = ("--bootstrap", "2")
"""Replicates of a distance of 2048 dimensions, which takes a second each."""


class Inception(torch.nn.Module):
    """What clean-fid and the Inception Score use of the torchscript file: forward, `layers`, and `output.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 7, 4), torch.nn.ReLU(), torch.nn.AvgPool2d(18), torch.nn.Flatten(),
            torch.nn.Linear(128, 2048),
        )  # fmt: skip
        self.output = torch.nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear")
        features = self.layers((x - 128) / 128)
        return features if return_features else self.output(features)


@pytest.fixture
def inception(run: Path) -> Path:
    """A file of the format of inception-2015-12-05.pt, of random weights."""
    torch.manual_seed(0)
    torch.jit.script(Inception()).save(str(run / "inception.pt"))
    return run / "inception.pt"


def test_fid_is_of_the_features_that_clean_fid_reads_from_the_files(run: Path, inception: Path, tmp_path: Path):
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    assert evaluate(run, *FEW, conditions=("glide",), inception="inception.pt") == 0
    row = json.loads((run / "samples" / "glide" / "metrics.json").read_text())
    assert row["protocol"]["inception"].startswith("Inception-v3 (clean-fid)")

    shutil.copy(inception, tmp_path / "inception-2015-12-05.pt")  # as clean-fid calls it
    model = InceptionV3W(str(tmp_path), download=False)
    statistics = []
    for folder in (run / "samples" / "glide", run / "reference"):
        (folder / "grid.png").unlink()  # clean-fid takes every picture in the folder
        features = get_folder_features(
            str(folder), model, num_workers=0, batch_size=5, device=torch.device("cpu"), mode="clean", verbose=False
        )
        assert features.shape == (12, 2048)
        statistics.append(FeatureStatistics.of(features))
    with pytest.warns(SingularCovariance):
        expected = frechet_distance(*statistics)
    assert row["fid"]["value"] == pytest.approx(expected, rel=1e-4) and expected > 1e-6
    assert 1 <= row["inception_score"]["value"] < 1008


def test_other_inception_weights_are_another_judge(run: Path, inception: Path, capsys: pytest.CaptureFixture):
    """Its protocol tells, statistics by others are refused, and kept features are not taken for its own."""
    alone = {"classifier": "", "clip": "", "conditions": ("glide",)}
    metrics, fid = run / "samples" / "glide" / "metrics.json", run / "statistics" / "inception.npz"
    rows = []
    for name, seed in (("inception.pt", 0), ("other.pt", 1)):
        torch.manual_seed(seed)
        torch.jit.script(Inception()).save(str(run / name))
        words = ("--write-statistics", str(fid.parent)) if seed == 0 else ()
        assert evaluate(run, *words, *FEW, **alone, inception=name) == 0
        rows.append(json.loads(metrics.read_text()))
        assert f"FID: {rows[-1]['protocol']['inception']}, against" in " ".join(capsys.readouterr().out.split())
    assert rows[0]["fid"]["value"] != rows[1]["fid"]["value"]  # the second read no features of the first
    with pytest.raises(InputError, match=r"was measured with (extractor|inception) = "):
        check_protocols(rows)
    assert evaluate(run, "--statistics", str(fid), **alone, inception="other.pt") == 2
    error = capsys.readouterr().err
    assert all(row["protocol"]["inception"] in error for row in rows) and "statistics again by these" in error
    assert json.loads(metrics.read_text()) == rows[1]


def test_statistics_are_of_the_reference_whatever_it_is_compared_with(run: Path):
    """`--write-statistics` beside `--statistics` writes those of the reference, not the ones that were read."""
    first, second = run / "first", run / "second"
    assert evaluate(run, "--write-statistics", str(first), conditions=("glide",)) == 0
    found = ReferenceStatistics.load(first / "clip.npz")
    moved = FeatureStatistics(found.statistics.n, found.statistics.mean + 1.0, found.statistics.scatter)
    ReferenceStatistics(moved, found.protocol).save(run / "moved.npz")
    words = ("--statistics", str(run / "moved.npz"), "--write-statistics", str(second))
    assert evaluate(run, *words, conditions=("glide",)) == 0
    assert (second / "clip.npz").read_bytes() == (first / "clip.npz").read_bytes()


def test_two_statistics_for_one_network_are_refused(run: Path, capsys: pytest.CaptureFixture):
    written = run / "statistics"
    assert evaluate(run, "--write-statistics", str(written), conditions=("glide",)) == 0
    words = ("--statistics", str(written / "clip.npz")) * 2
    assert evaluate(run, *words, conditions=("glide",)) == 2
    assert "both hold statistics by clip" in capsys.readouterr().err


def test_without_inception_weights_one_line_says_what_to_put_where(run: Path, capsys: pytest.CaptureFixture):
    assert evaluate(run) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("FID with Inception features is left out: put inception-2015-12-05.pt") == 1
    assert "name the file by --inception or UNCLIP_INCEPTION" in text
    row = json.loads((run / "samples" / "glide" / "metrics.json").read_text())
    assert row["fid"] is None and row["inception_score"] is None


def test_frechet_distances_against_statistics_in_files(run: Path, inception: Path, capsys: pytest.CaptureFixture):
    written, weights = run / "statistics", {"inception": inception.name}
    metrics = run / "samples" / "glide" / "metrics.json"
    assert evaluate(run, "--write-statistics", str(written), *FEW, conditions=("glide",), **weights) == 0
    direct = json.loads(metrics.read_text())
    assert {file.name for file in written.iterdir()} == {"classifier.npz", "clip.npz", "inception.npz"}
    fid, main = str(written / "inception.npz"), str(written / "classifier.npz")
    assert evaluate(run, "--statistics", fid, "--statistics", main, *FEW, conditions=("glide",), **weights) == 0
    through_files = json.loads(metrics.read_text())
    for metric in ("fid", "frechet"):
        assert through_files[metric] == direct[metric] and direct[metric]["value"] > 0
        assert direct["protocol"][f"{metric}_reference"] is None
        assert through_files["protocol"][f"{metric}_reference"].startswith(direct["protocol"]["reference_digest"])
    assert f"against statistics of the real images {direct['protocol']['reference_digest']}" in " ".join(
        capsys.readouterr().out.split()
    )


def test_statistics_in_a_file_are_those_that_are_compared_with(run: Path):
    written = run / "statistics"
    assert evaluate(run, "--write-statistics", str(written), conditions=("glide",)) == 0
    found = ReferenceStatistics.load(written / "classifier.npz")
    moved = FeatureStatistics(found.statistics.n, found.statistics.mean + 1.0, found.statistics.scatter)
    ReferenceStatistics(moved, {**found.protocol, "digest": "moved"}).save(written / "classifier.npz")
    metrics = run / "samples" / "glide" / "metrics.json"
    before = json.loads(metrics.read_text())
    assert evaluate(run, "--statistics", str(written / "classifier.npz"), conditions=("glide",)) == 0
    after = json.loads(metrics.read_text())
    assert after["frechet"]["value"] != before["frechet"]["value"] and after["kid"] == before["kid"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"extractor": "another"}, "name that network too"),
        ({"resizing": "nearest"}, "name that network too"),
        ({"size": [8, 8]}, "were made with size = [8, 8]"),
    ],
)
def test_statistics_of_another_protocol_are_refused(run: Path, change, told, capsys: pytest.CaptureFixture):
    written = run / "statistics"
    assert evaluate(run, "--write-statistics", str(written), conditions=("glide",)) == 0
    file = written / "clip.npz"
    found = ReferenceStatistics.load(file)
    ReferenceStatistics(found.statistics, {**found.protocol, **change}).save(file)
    capsys.readouterr()
    assert evaluate(run, "--statistics", str(file), conditions=("glide",)) == 2
    assert told in capsys.readouterr().err


def test_statistics_of_another_width_are_refused(run: Path, capsys: pytest.CaptureFixture):
    written = run / "statistics"
    assert evaluate(run, "--write-statistics", str(written), conditions=("glide",)) == 0
    found = ReferenceStatistics.load(written / "clip.npz")
    narrow = FeatureStatistics(12, found.statistics.mean[:3], found.statistics.scatter[:3, :3])
    ReferenceStatistics(narrow, found.protocol).save(written / "clip.npz")
    assert evaluate(run, "--statistics", str(written / "clip.npz"), conditions=("glide",)) == 2
    assert "holds statistics of 3 features, the clip weights give" in capsys.readouterr().err


def test_blur_writes_the_distance_at_every_radius(run: Path, capsys: pytest.CaptureFixture):
    """At radius 0 it is the distance of `unclip evaluate`; noise comes nearer to pictures under a blur."""
    assert evaluate(run, conditions=("glide",)) == 0
    words = ["blur", *(str(run / "samples" / name) for name in ("glide", "real")), "--run", str(run)]
    words += ["--reference", str(run / "reference"), "--bootstrap", "5", "--radii"]
    assert main([*words, "4", "0", "4"]) == 0
    assert "Frechet distance under a Gaussian blur" in capsys.readouterr().out
    found = json.loads((run / "blur.json").read_text())
    assert found["radii"] == [0, 4] and [row["condition"] for row in found["rows"]] == ["glide", "real"]
    plain = json.loads((run / "samples" / "glide" / "metrics.json").read_text())["frechet"]["value"]
    sharp, soft = (cell["value"] for cell in found["rows"][0]["frechet"])
    assert sharp == pytest.approx(plain, rel=1e-6) and soft != pytest.approx(sharp, rel=0.01)
    for radius, said in (
        ("-1", "is 0 or more"),
        ("nan", "must be a finite number"),
        ("17", "the pictures have 16 pixels"),
    ):
        assert main([*words, radius]) == 2
        assert said in capsys.readouterr().err
