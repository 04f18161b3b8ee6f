"""`unclip evaluate` on folders of pictures that other programs made, through the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.judges.attributes import AttributeClassifier, export_classifier
from eval.metrics.frechet import FeatureStatistics, FrechetDistance
from eval.samples.folder import write_samples
from eval.samples.pictures import fitted
from experiments.cli import main

ATTRIBUTES = {"count": ["one", "two"], "colour_1": ["red", "blue"]}


def draw(path: Path, count: int, seed: int, suffix: str = ".jpg") -> None:
    rng = np.random.default_rng(seed)
    path.mkdir()
    for k in range(count):
        size = (24 + 4 * (k % 3), 24)
        pixels = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size)
        pixels.save(path / f"{k}{suffix}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of two models and real ones, of several sizes and formats, and a classifier."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNCLIP_INCEPTION", raising=False)
    for name, seed, suffix in (("karlo", 0, ".jpg"), ("glide3", 1, ".webp")):
        draw(tmp_path / name, 9, seed, suffix)
    draw(tmp_path / "photos", 12, 2, ".png")
    torch.manual_seed(0)
    export_classifier(AttributeClassifier(ATTRIBUTES, image_size=16, width=4, features=5), tmp_path / "classifier")
    return tmp_path


def evaluate(*words: str) -> int:
    judged = ["--reference", "photos", "--classifier", "classifier", "--bootstrap", "10", "--cache", ""]
    return main(["evaluate", *words, *judged])


def test_two_models_of_others_stand_in_one_table(place: Path, capsys: pytest.CaptureFixture):
    assert evaluate("karlo", "glide3", "--size", "16", "--csv", "all.csv") == 0
    printed = capsys.readouterr().out
    assert "karlo" in printed and "glide3" in printed and "the pictures have no captions" in printed
    said = " ".join(printed.split())
    assert "n = 9 a row: pictures without captions. In brackets: 95% bootstrap interval over pictures" in said
    assert "those of other sizes were brought to it: short side to 16 px" in said
    assert "Further metrics" in said and "KID" in said and "coverage" in said
    rows = {name: json.loads((place / name / "metrics.json").read_text()) for name in ("karlo", "glide3")}
    assert rows["karlo"]["protocol"] == rows["glide3"]["protocol"]
    protocol = rows["karlo"]["protocol"]
    assert protocol["size"] == [16, 16] and "short side to 16 px" in protocol["fit"]
    assert rows["karlo"]["clip_score"] is None and rows["karlo"]["diversity"] is None

    from eval.judges.attributes import load_classifier

    classifier = load_classifier(place / "classifier")

    def features(name: str) -> FeatureStatistics:
        pictures = sorted((place / name).glob("*.[jpw]*[gp]"), key=lambda p: int(p.stem))
        pixels = np.stack([np.asarray(fitted(Image.open(p).convert("RGB"), 16)) for p in pictures])
        seen = classifier.features(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
        return FeatureStatistics.of(seen.numpy())

    expected = FrechetDistance(features("photos"))(features("karlo"))
    assert rows["karlo"]["frechet"]["value"] == pytest.approx(expected, rel=1e-4)

    lines = list(csv.DictReader((place / "all.csv").open()))
    found = {(line["condition"], line["metric"]): float(line["value"]) for line in lines}
    assert found["glide3", "frechet"] == rows["glide3"]["frechet"]["value"]
    assert found["karlo", "coverage"] == rows["karlo"]["coverage"]["value"]
    assert {line["n"] for line in lines} == {"9"}


def test_pictures_alone(place: Path, capsys: pytest.CaptureFixture):
    """No real images: nothing is compared, the rest is measured; a run's samples and statistics ask for them."""
    (place / "captions.csv").write_text("caption\n" + "".join(f"caption {k // 3}\n" for k in range(9)))
    words = ["karlo", "--size", "16", "--classifier", "classifier", "--captions", "captions.csv", "--cache", ""]
    assert main(["evaluate", *words, "--bootstrap", "10", "--csv", "all.csv"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "No real images were given by --reference" in printed and "Frechet \u2193" not in printed
    row = json.loads((place / "karlo" / "metrics.json").read_text())
    assert row["frechet"] is None and row["diversity"]["value"] > 0
    assert [line["metric"] for line in csv.DictReader((place / "all.csv").open())] == ["diversity"]
    assert main(["evaluate", *words, "--statistics", "x.npz"]) == 2
    assert "are of real images: name them by --reference" in capsys.readouterr().err
    assert main(["evaluate", "runs/quickstart/samples/glide", "--classifier", "classifier"]) == 2
    assert "give --reference, as runs/quickstart/samples/reference" in capsys.readouterr().err


def test_mixed_sizes_ask_for_a_size(place: Path, capsys: pytest.CaptureFixture):
    assert evaluate("karlo") == 2
    error = capsys.readouterr().err
    assert "karlo holds pictures of 3 sizes" in error and "--size 24" in error
    assert not (place / "karlo" / "metrics.json").exists()


def test_captions_put_other_models_beside_ours(place: Path, capsys: pytest.CaptureFixture):
    """Ours with a manifest, theirs with a csv of the same captions in another order: one table, one protocol."""
    captions = [f"caption {k}" for k in range(9)]
    rng = np.random.default_rng(5)
    pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in captions]
    records = [
        {"caption": c, "caption_index": k, "sample_index": 0, "condition": "glide"} for k, c in enumerate(captions)
    ]
    write_samples(place / "ours", pictures, records)
    lines = [f"{k}.jpg,caption {8 - k}" for k in range(9)]
    (place / "captions.csv").write_text("\n".join(["file_name,caption", *lines]) + "\n")
    assert evaluate("ours", "karlo", "--size", "16") == 2
    assert "karlo has no captions and ours has: name a table of them by --captions" in capsys.readouterr().err
    assert evaluate("ours", "karlo", "--size", "16", "--captions", "captions.csv") == 0
    rows = [json.loads((place / name / "metrics.json").read_text()) for name in ("ours", "karlo")]
    assert rows[0]["protocol"]["captions_digest"] == rows[1]["protocol"]["captions_digest"]
    assert evaluate("ours", "--size", "16", "--captions", "captions.csv") == 2
    assert "captions of its own" in capsys.readouterr().err


def test_the_list_of_published_metrics(place: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--list"])
    printed = capsys.readouterr().out
    assert not end.value.code and "hpsv2.1 (not here)" in printed and "xswu/HPSv2" in printed
    (place / "HPS_v2.1_compressed.pt").write_bytes(b"")
    for words in (["--list", "--weights", str(place)], ["--weights", str(place), "--list"]):
        with pytest.raises(SystemExit):
            main(["evaluate", *words])
        assert "hpsv2.1 (here)" in capsys.readouterr().out
    assert evaluate("karlo", "--size", "16", "--metric", "dinov2") == 2
    assert "--metric dinov2 needs dinov2_vitl14_pretrain.pth" in capsys.readouterr().err


def test_a_published_metric_by_a_file_of_small_weights(place: Path, capsys: pytest.CaptureFixture):
    """DINOv2's layout, small: distances, Vendi and AuthPct in its features, named in table, json and protocol."""
    from timm.models.vision_transformer import VisionTransformer

    from eval.judges.published.dinov2 import DINOv2Extractor
    from eval.metrics.diversity import vendi_score
    from eval.samples.plain import open_folder

    torch.manual_seed(0)
    network = VisionTransformer(224, 14, embed_dim=8, depth=1, num_heads=1, init_values=1.0, num_classes=0)
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 8)}
    torch.save(state, place / "dinov2_vitl14_pretrain.pth")
    assert evaluate("karlo", "--size", "24", "--weights", str(place), "--metric", "dinov2") == 0
    printed = capsys.readouterr().out
    assert "fd_dinov2" in printed and "DINOv2 ViT-L/14, 224 px" in printed
    row = json.loads((place / "karlo" / "metrics.json").read_text())
    assert set(row["published"]) == {
        "fd_dinov2", "fd_infinity_dinov2", "kd_dinov2", "authpct_dinov2", "vendi_dinov2"
    }  # fmt: skip
    assert row["published"]["fd_infinity_dinov2"] is None  # of nine pictures nothing is extrapolated
    assert row["protocol"]["published"]["dinov2"].startswith("DINOv2 8 ")
    extractor = DINOv2Extractor(place / "dinov2_vitl14_pretrain.pth")
    ours, real = (extractor(open_folder(place / name).fitted(24).images()).numpy() for name in ("karlo", "photos"))
    expected = FrechetDistance(FeatureStatistics.of(real))(FeatureStatistics.of(ours))
    assert row["published"]["fd_dinov2"]["value"] == pytest.approx(expected, rel=1e-4)
    assert row["published"]["vendi_dinov2"]["value"] == pytest.approx(vendi_score(ours), rel=1e-5)
    words = ["--reference", "photos", "--size", "24", "--weights", str(place), "--metric", "dinov2", "--cache", ""]
    assert main(["evaluate", "karlo", *words, "--bootstrap", "10"]) == 0  # and with nothing beside it
    alone = json.loads((place / "karlo" / "metrics.json").read_text())
    assert alone["published"] == row["published"] and alone["frechet"] == row["published"]["fd_dinov2"]
    assert alone["protocol"]["extractor"] == row["protocol"]["published"]["dinov2"]
