"""Shapes: a batch holds what the scenes say, at any size, cached or not."""

import numpy as np
import pytest
import torch

from datamodules.rendered import scenes
from datamodules.shapes import ShapesDataModule
from datamodules.transforms import to_uint8
from modules.errors import InputError


def shapes(tmp_path, **options):
    sizes = {"train_size": 40, "val_size": 10, "test_size": 12}
    return ShapesDataModule(**{"image_size": 16, "batch_size": 8, "cache_dir": str(tmp_path), **sizes, **options})


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_batch_is_the_pairs_of_its_indices(tmp_path, split, cached):
    data = shapes(tmp_path, **({} if cached else {"cache_dir": None}))
    indices = [3, 0, 9, 3]
    batch = data.dataset(split).__getitems__(indices)
    pairs = [scenes.make_pair(split, index) for index in indices]
    assert batch.captions == [pair.caption for pair in pairs]
    assert batch.index.tolist() == indices
    assert batch.embeddings is None
    np.testing.assert_array_equal(to_uint8(batch.images), np.stack([scenes.render(p.scene, 16) for p in pairs]))
    np.testing.assert_array_equal(batch.attributes.numpy(), np.stack([scenes.attributes(p.scene) for p in pairs]))
    assert batch.attributes.dtype == torch.int64
    assert (tmp_path.exists() and any(tmp_path.iterdir())) == cached


def test_sizes_and_loaders(tmp_path):
    data = shapes(tmp_path)
    assert [data.size(split) for split in ("train", "val", "test")] == [40, 10, 12]
    assert [len(batch.index) for batch in data.val_dataloader()] == [8, 2]
    seen = torch.cat([batch.index for batch in data.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(40))
    single = data.dataset("val")[4]
    assert single.captions == [scenes.make_pair("val", 4).caption]


def test_a_judge_may_train_on_what_the_others_never_see(tmp_path):
    def holds_held_out(data, split):
        pairs = [data.pair(split, index) for index in range(data.size(split))]
        return any((o.colour, o.shape) in scenes.HELD_OUT for pair in pairs for o in pair.scene.objects)

    judge, plain = shapes(tmp_path, train_split="unrestricted", train_size=100), shapes(tmp_path, train_size=100)
    assert holds_held_out(judge, "train")
    assert not holds_held_out(plain, "train")
    assert not holds_held_out(judge, "val")
    assert holds_held_out(judge, "test")
    pair = scenes.make_pair("unrestricted", 7)
    batch = judge.dataset("train")[7]
    assert batch.captions == [pair.caption] == [judge.captions("train")[7]]
    np.testing.assert_array_equal(to_uint8(batch.images)[0], scenes.render(pair.scene, 16))
    assert judge.data_hash("train") != plain.data_hash("train")
    assert judge.data_hash("test") == plain.data_hash("test")


def test_another_image_size_shows_the_same_scene(tmp_path):
    small, large = (shapes(tmp_path, image_size=size).dataset("val")[2].images for size in (16, 64))
    assert large.shape == (1, 3, 64, 64)
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert (pooled - small).abs().mean() < 0.02


def test_a_larger_split_begins_with_the_smaller_one(tmp_path):
    assert shapes(tmp_path, val_size=30).captions("val")[:10] == shapes(tmp_path).captions("val")


def test_vocabulary_is_the_sorted_words_of_train_captions(tmp_path):
    data = shapes(tmp_path, train_size=400)
    words = {word for caption in data.captions("train") for word in caption.split()}
    assert data.vocabulary() == sorted(words)
    assert words == set(scenes.VOCABULARY)

    class Toy(ShapesDataModule):
        def captions(self, split):
            return {"train": ["b a", "A c", "a b"], "val": ["val only"]}[split]

    assert Toy().vocabulary() == ["a", "b", "c"]
    assert Toy().vocabulary(min_count=2) == ["a", "b"]
    assert Toy().vocabulary(min_count=3) == ["a"]


def test_attribute_names_go_with_the_columns(tmp_path):
    data = shapes(tmp_path)
    names = data.attributes
    batch = data.dataset("train").__getitems__(range(40))
    assert batch.attributes.shape[1] == len(names)
    for column, classes in enumerate(names.values()):
        assert batch.attributes[:, column].max() < len(classes)


def test_the_hash_is_of_content_not_of_resolution_or_order(tmp_path):
    base = shapes(tmp_path).data_hash("val")
    assert shapes(tmp_path, image_size=32, batch_size=2, seed=9, cache_dir=None).data_hash("val") == base
    assert shapes(tmp_path, val_size=11).data_hash("val") != base
    assert shapes(tmp_path).data_hash("test") != base


def test_changed_code_is_rendered_anew(tmp_path, monkeypatch):
    shapes(tmp_path).dataset("val")
    before = set(tmp_path.glob("*.npy"))
    monkeypatch.setattr("datamodules.shapes.source_hash", lambda module: "changed")
    shapes(tmp_path).dataset("val")
    assert len(set(tmp_path.glob("*.npy")) - before) == 1


def test_real_pictures_of_a_caption(tmp_path):
    data = shapes(tmp_path)
    pair = scenes.make_pair("test", 5)
    own, truth = data.real("test", 5, 0, 24, seed=77)
    np.testing.assert_array_equal(own, scenes.render(pair.scene, 24))
    assert truth == {"mentioned": pair.mentioned, "scene": scenes.describe(pair.scene), "held_out": False}
    other, truth = data.real("test", 5, 1, 24, seed=77)
    scene = scenes.scene_for(pair.mentioned, 77)
    np.testing.assert_array_equal(other, scenes.render(scene, 24))
    assert truth == {"mentioned": pair.mentioned, "scene": scenes.describe(scene), "held_out": False}


@pytest.mark.parametrize("name", ["image_size", "batch_size", "train_size", "val_size", "test_size"])
def test_a_size_below_its_bound_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} must be . or more, got 0"):
        shapes(tmp_path, **{name: 0})


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown split 'training'; there are train, val, test"):
        shapes(tmp_path).dataset("training")
