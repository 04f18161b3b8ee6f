"""`unclip probe`: finds what embeddings hold, and nothing where they hold nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.embeddings.folder import EmbeddingsInfo
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.rendered import scenes
from datamodules.shapes import ShapesDataModule
from experiments.cli import main
from experiments.embeddings.probe import probe
from modules.errors import InputError

NAMES = list(scenes.ATTRIBUTES)
SIZES = {"train_size": 400, "val_size": 120, "test_size": 8}


def write(folder, held):
    """Embeddings that hold, one-hot, the attributes `held`, and noise besides."""
    data = ShapesDataModule(16, **SIZES, cache_dir=None)
    widths = [len(scenes.ATTRIBUTES[name]) + 1 for name in held]
    writer = EmbeddingsWriter(folder, EmbeddingsInfo("fake", sum(widths) + 4, 3))
    for split in ("train", "val"):
        truth = data.records(split).attributes
        noise = np.random.default_rng(len(split)).normal(size=(len(truth), 4)) / 2
        columns = [np.eye(width)[truth[:, NAMES.index(name)]] for name, width in zip(held, widths, strict=True)]
        z = F.normalize(torch.from_numpy(np.concatenate([*columns, noise], axis=1)).float(), dim=1)
        tokens = torch.zeros(len(z), 3, dtype=torch.int64)
        writer.write(split, len(z), data.data_hash(split), [(z, z, tokens)])
    return ShapesDataModule(16, **SIZES, cache_dir=None, embeddings=str(folder))


def chance(data, column, rows):
    """Accuracy of always naming the class that is most frequent in training."""
    train, val = (data.records(split).attributes for split in ("train", "val"))
    k = NAMES.index(column)
    train, val = (x[rows(x), k] for x in (train, val))
    return (val == np.bincount(train).argmax()).mean()


def lone(x):
    return x[:, NAMES.index("count")] == 0


def test_what_is_held_is_found_and_what_is_not_is_not(tmp_path):
    data = write(tmp_path / "e", ["background", "count", "colour_1", "colour_2"])
    found = probe(data)
    assert (found["train_pairs"], found["test_pairs"]) == (400, 120)
    for name in ("background", "count", "colour", "colour_of_two"):
        assert found[name] > 0.97, name
    assert found["shape"] < chance(data, "shape_1", lone) + 0.25
    assert found["shape_of_two"] < 0.6
    keys = {"background", "count", "train_pairs", "test_pairs"}
    assert set(found) == keys | {f"{name}{of}" for name in ("colour", "shape", "size") for of in ("", "_of_two")}


def test_colour_and_shape_are_those_of_single_objects(tmp_path):
    """Slot 1's shape is written into pictures of one object only: of two, nothing is to be found."""
    data = write(tmp_path / "e", ["shape_1"])
    truth = data.records("train").attributes
    found = probe(data)
    assert found["shape"] > 0.97
    assert found["shape_of_two"] < 0.85  # Slot 1 at 1, slot 2 by chance: the mean of both slots.
    assert 0.05 < lone(truth).mean() < 0.95


def test_fewer_pairs(tmp_path):
    found = probe(write(tmp_path / "e", ["background"]), train=100, test=50)
    assert (found["train_pairs"], found["test_pairs"]) == (100, 50)


def test_judged_on_validation_fitted_on_training(tmp_path, monkeypatch):
    data = write(tmp_path / "e", ["background", "count", "colour_1", "shape_1"])
    asked, dataset = [], data.dataset
    monkeypatch.setattr(data, "dataset", lambda split: asked.append(split) or dataset(split))
    probe(data)
    assert asked == ["train", "val"]


CONFIG = """
data:
  class_path: datamodules.shapes.ShapesDataModule
  init_args: {{image_size: 16, train_size: 400, val_size: 120, test_size: 8, cache_dir: null, embeddings: {}}}
"""


def test_the_command(tmp_path, capsys):
    write(tmp_path / "e", ["background", "count", "colour_1", "colour_2"])
    (tmp_path / "data.yaml").write_text(CONFIG.format("null"))
    words = ["--config", str(tmp_path / "data.yaml"), "--embeddings", str(tmp_path / "e")]
    assert main(["probe", *words, "--out", str(tmp_path / "run" / "probe.json")]) == 0
    found = json.loads((tmp_path / "run" / "probe.json").read_text())
    assert found["colour"] > 0.97
    assert f"background {found['background']:.3f}" in capsys.readouterr().out


def test_data_without_embeddings_are_refused():
    with pytest.raises(InputError, match="give --embeddings a folder"):
        probe(ShapesDataModule(16, **SIZES, cache_dir=None))


def test_data_without_attributes_are_refused(tmp_path, monkeypatch):
    data = write(tmp_path / "e", ["background"])
    monkeypatch.setattr(type(data), "attributes", None)
    with pytest.raises(InputError, match="ShapesDataModule knows no attributes to probe for"):
        probe(data)
