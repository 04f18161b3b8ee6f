"""`unclip mix`, and the options of `unclip sample` that change what is held and what is guided away from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from modules.images.tensors import to_uint8
from modules.pipeline import UnCLIP


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "spots.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return path


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def pixels(folder, k=0):
    return torch.from_numpy(np.array(Image.open(folder / lines(folder)[k]["file"]))).permute(2, 0, 1)


def test_a_mix_is_a_sample_folder(stored_run, picture, tmp_path, capsys):
    words = ["mix", str(picture), "--captions", "a red circle", "--weights", "1", "2", "--run", str(stored_run)]
    assert main([*words, "-n", "2", "--negative", "a blue square", "--out", str(tmp_path / "out")]) == 0
    records = lines(tmp_path / "out")
    assert [record["sample_index"] for record in records] == [0, 1]
    assert records[0]["caption"] == "1 spots, 2 a red circle" and records[0]["weights of the mix"] == [1.0, 2.0]
    assert records[0]["negative"] == "a blue square" and "1 spots, 2 a red circle" in capsys.readouterr().out
    system = UnCLIP.from_run(stored_run)
    own = system.mix([str(picture)], "a red circle", [1, 2], negative="a blue square", seed=[0])
    assert torch.equal(pixels(tmp_path / "out"), to_uint8(own.tensor)[0])


def test_pictures_alone_need_no_prior(stored_run, picture, tmp_path):
    import shutil

    run = shutil.copytree(stored_run, tmp_path / "run", ignore=lambda _, names: [n for n in names if "prior" in n])
    words = ["mix", str(picture), str(picture), "--run", str(run), "--no-upsample", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert lines(tmp_path / "out")[0]["condition"] == "image_embedding"


def test_weights_of_another_number_are_refused_before_the_run_is_read(tmp_path, picture, capsys):
    words = ["mix", str(picture), "--weights", "1", "2", "--run", "nowhere", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "2 weights do not go with 1 pictures and captions" in capsys.readouterr().err


def test_a_mix_takes_no_candidates(tmp_path, picture, capsys):
    """Nothing chooses among them there, and a manifest must not say so."""
    words = ["mix", str(picture), "--run", "nowhere", "--out", str(tmp_path / "out")]
    assert main([*words, "--best-of", "4", "--rank-clip", "x"]) == 2
    assert "--best-of" in capsys.readouterr().err


def test_offloaded_samples_are_the_same_and_precision_is_recorded(stored_run, tmp_path):
    words = ["sample", "a red circle", "--run", str(stored_run), "--out"]
    assert main([*words, str(tmp_path / "plain")]) == 0
    assert main([*words, str(tmp_path / "offloaded"), "--offload"]) == 0
    assert main([*words, str(tmp_path / "half"), "--precision", "bf16", "--offload"]) == 0
    assert torch.equal(pixels(tmp_path / "plain"), pixels(tmp_path / "offloaded"))
    plain, offloaded, half = (lines(tmp_path / name)[0] for name in ("plain", "offloaded", "half"))
    assert plain == offloaded and "precision" not in plain and half["precision"] == "bf16"
    assert half["config_hash"] != plain["config_hash"]
    assert (pixels(tmp_path / "half").float() - pixels(tmp_path / "plain").float()).abs().mean() < 6


def test_a_negative_caption_is_recorded_and_changes_the_picture(stored_run, tmp_path, capsys):
    words = ["sample", "a red circle", "--run", str(stored_run), "--no-upsample", "--out"]
    assert main([*words, str(tmp_path / "plain")]) == 0
    assert main([*words, str(tmp_path / "away"), "--negative", "a blue square"]) == 0
    plain, away = (lines(tmp_path / name)[0] for name in ("plain", "away"))
    assert away["negative"] == "a blue square" and away["config_hash"] != plain["config_hash"]
    system = UnCLIP.from_run(stored_run)
    drawn = system.text_to_image("a red circle", negative="a blue square", seed=0, size=16)
    assert torch.equal(pixels(tmp_path / "away"), to_uint8(drawn.tensor)[0])
    off = ["--prior-guidance", "1", "--decoder-guidance", "1"]
    assert main([*words, str(tmp_path / "off"), "--negative", "a blue square", *off]) == 2
    assert "nothing is guided here" in capsys.readouterr().err
