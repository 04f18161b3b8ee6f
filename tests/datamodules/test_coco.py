"""COCO's folder."""

import json

import pytest

from benchmarks.made_up_data.formats import samples, write_coco
from datamodules.captions import CaptionConfig
from datamodules.coco import CocoDataModule
from datamodules.faults import FaultPolicy
from datamodules.pictures.module import SplitConfig
from modules.errors import InputError


@pytest.fixture
def folder(tmp_path):
    write_coco(tmp_path, samples(8, 16))
    write_coco(tmp_path, samples(30, 16, first=50), "val2017")
    return tmp_path


def data(folder, **more):
    return CocoDataModule(str(folder), **{"image_size": 16, "faults": FaultPolicy(max_skipped=100), **more})


def edit(folder, change, name="train2017"):
    path = folder / "annotations" / f"captions_{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def faults(module):
    return sorted((fault.place.rpartition("/")[2], fault.kind) for fault in module.log("train").found.values())


def test_validation_and_test_share_the_public_pictures(folder):
    module = data(folder)
    assert module.size("train") == 8
    assert module.size("val") + module.size("test") == 30
    assert not set(module.pairs("val").keys) & set(module.pairs("test").keys)
    assert min(module.size("val"), module.size("test")) > 5
    third = data(folder, splits=SplitConfig(val_share=0.1, test_share=0.2))
    assert third.size("val") < module.size("val")
    own = data(folder, test="train2017", splits=SplitConfig(val_share=0.1, test_share=0.25))
    assert own.size("val") == 30
    assert 0 < own.size("test") < 8 == own.size("train") + own.size("test")


def test_captions_are_in_the_order_of_their_numbers_and_one_folder_deeper_will_do(folder):
    edit(folder, lambda content: content["annotations"].reverse())
    (folder / "images").mkdir()
    (folder / "train2017").rename(folder / "images" / "train2017")
    module = data(folder)
    expected = {pair.name: list(pair.captions) for pair in samples(8, 16)}
    pairs = module.pairs("train")
    assert dict(zip(pairs.keys, module.captions("train"), strict=True)) == {k: v[0] for k, v in expected.items()}
    assert sorted(pairs.captions.texts) == sorted(text for texts in expected.values() for text in texts)
    assert module.dataset("train").__getitems__([0]).images.std() > 0.1


def test_what_points_nowhere_is_counted(folder):
    def change(content):
        content["annotations"] += [{"id": 900, "image_id": 77, "caption": "x"}, {"id": 901}]
        content["images"] += [
            {"id": 50, "file_name": "gone.jpg"},
            {"id": 51, "file_name": "../train2017/up.jpg"},
            dict(content["images"][0]),
            {"id": "x"},
        ]
        content["annotations"] = [a for a in content["annotations"] if a.get("image_id") != 2]

    edit(folder, change)
    module = data(folder)
    assert module.size("train") == 7
    assert faults(module) == [
        ("captions_train2017.json: caption 900", "an annotation that points nowhere"),
        ("captions_train2017.json: image 1", "a key that occurs twice"),
        ("captions_train2017.json: image 2", "no caption"),
        ("captions_train2017.json: image 50", "an entry that points nowhere"),
        ("captions_train2017.json: image 51", "a path that leads out of the folder"),
        ("captions_train2017.json: {'id': 'x'}", "an image without file_name"),
        ("captions_train2017.json: {'id': 901}", "an annotation without image_id and caption"),
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"captions_train2017\.json cannot be read: No such file"),
        (lambda path: path.write_text("{"), "is not a COCO captions file"),
        (lambda path: path.write_text("[]"), "is not a COCO captions file"),
        (lambda path: path.write_text('{"images": []}'), "KeyError.*annotations"),
        (lambda path: path.write_text('{"images": [], "annotations": []}'), "no pair of it can be used"),
    ],
)
def test_a_file_that_is_not_cocos_is_named(folder, damage, message):
    damage(folder / "annotations" / "captions_train2017.json")
    with pytest.raises(InputError, match=message):
        data(folder).size("train")


def test_a_missing_folder_is_named(folder):
    with pytest.raises(InputError, match="train2014: no such folder; unpack COCO's train2014 pictures there"):
        data(folder, train="train2014").size("train")


def test_columns_are_refused_for_there_are_none(folder):
    with pytest.raises(
        InputError, match=r"captions\.columns is .*, but COCO's annotations have no columns: leave it out"
    ):
        data(folder, captions=CaptionConfig(columns={"ground_truth": "caption"})).size("train")
