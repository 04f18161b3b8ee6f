"""Names with dots in shards: every picture is trained on with its own caption, or is counted."""

import io
import json
import tarfile

import pytest

from benchmarks.made_up_data.formats import samples
from datamodules.captions import CaptionConfig
from datamodules.faults import FaultPolicy
from datamodules.pictures.module import SplitConfig
from datamodules.pictures.shard_names import Group, sort_out
from datamodules.webdataset import WebDatasetDataModule

PICTURES = [pair.data for pair in samples(4, 16)]


def shard(path, *files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def listed(path, **more):
    """key -> (number of the picture, captions); place -> kind of fault; what is not used."""
    options = {"faults": FaultPolicy(max_skipped=1e9), "splits": SplitConfig(val_share=0.0, test_share=0.0)}
    data = WebDatasetDataModule(str(path), image_size=16, cache_dir=None, **options, **more)
    pairs = data.pairs("train")
    found = {
        key.partition(":")[2]: (PICTURES.index(pairs.reader.read(k)), pairs.captions.all_of(k))
        for k, key in enumerate(pairs.keys)
    }
    faults = {fault.place.partition(".tar:")[2]: fault.kind for fault in data.log("train").found.values()}
    return found, faults, dict(data._listed[str(path)].unused)


A, B, C, D = PICTURES


@pytest.mark.parametrize(
    ("files", "pairs", "faults", "unused"),
    [
        pytest.param(
            [("cat.jpg", A), ("cat.txt", b"a cat"), ("cat.2.jpg", B), ("cat.2.txt", b"another")],
            {"cat": (0, ["a cat"]), "cat.2": (1, ["another"])},
            {},
            {},
            id="numbered pictures with captions of their own",
        ),
        pytest.param(
            [("d/IMG.0001.jpg", A), ("d/IMG.0001.txt", b"one"), ("d/IMG.0002.JPG", B), ("d/IMG.0002.txt", b"two")],
            {"d/IMG.0001": (0, ["one"]), "d/IMG.0002": (1, ["two"])},
            {},
            {},
            id="no picture without a number",
        ),
        pytest.param(
            [("a.final.jpg", A), ("a.final.txt", b"one"), ("b.of.1.5.jpg", B), ("b.of.1.5.txt", b"two")],
            {"a.final": (0, ["one"]), "b.of.1.5": (1, ["two"])},
            {},
            {},
            id="words and versions",
        ),
        pytest.param(
            [("900.mask.jpg", A), ("900.txt", b"a cat"), ("1.jpg", B), ("1.txt", b"one")],
            {"1": (1, ["one"])},
            {"900": "a pair without a picture"},
            {},
            id="a mask whose picture is missing",
        ),
        pytest.param(
            [("dog.2.jpg", A), ("dog.2.txt", b"the second"), ("dog.txt", b"the first")],
            {"dog.2": (0, ["the second"])},
            {"dog": "a pair without a picture"},
            {},
            id="another picture's caption",
        ),
        pytest.param(
            [("dog.2.jpg", A), ("dog.jpg", B), ("dog.txt", b"the first"), ("dog.3.txt", b"the third")],
            {"dog": (1, ["the first"])},
            {"dog.2": "no caption", "dog.3": "a pair without a picture"},
            {},
            id="a missing caption and a missing picture",
        ),
        pytest.param(
            [("x.mask.png", A), ("x.depth.png", B), ("x.jpg", C), ("x.txt", b"x"), ("x.ocr.txt", b"STOP")],
            {"x": (2, ["x"])},
            {},
            {"mask.png": 1, "depth.png": 1},
            id="pictures that belong to another one",
        ),
        pytest.param(
            [("x.jpg", A), ("x.png", B), ("x.txt", b"x")],
            {"x": (0, ["x"])},
            {},
            {"png": 1},
            id="two formats",
        ),
        pytest.param(
            [("x.2.mask.jpg", A), ("x.2.jpg", B), ("x.2.txt", b"x"), ("x.2.mask.json", b"{}")],
            {"x.2": (1, ["x"])},
            {},
            {"mask.jpg": 1},
            id="a mask of a numbered picture, with a record",
        ),
        pytest.param([("IMG.1.jpg", A), ("b.jpg", B), ("b.txt", b"b")], {"b": (1, ["b"])}, {"IMG.1": "no caption"}, {}),
    ],
)
def test_every_picture_is_used_with_its_own_caption_or_counted(tmp_path, files, pairs, faults, unused):
    for number, order in enumerate((files, files[::-1])):
        found, wrong, left = listed(shard(tmp_path / f"{number}.tar", *order))
        assert wrong == faults
        assert sum(left.values()) == sum(unused.values())
        if order is files:  # Of two formats the first is taken.
            assert (found, {name.rpartition("2.")[2]: n for name, n in left.items()}) == (pairs, unused)
        else:
            assert found.keys() == pairs.keys()


def test_captions_of_a_json_and_of_dotted_extensions_find_their_pictures(tmp_path):
    record = json.dumps({"text": "of the record"}).encode()
    files = [("a.2.jpg", A), ("a.2.json", record), ("a.jpg", B), ("a.json", record), ("a.2.re.txt", b"synthetic")]
    columns = {"ground_truth": "text", "synthetic": "re.txt"}
    found, faults, unused = listed(shard(tmp_path / "x.tar", *files), captions=CaptionConfig(columns))
    assert found == {"a.2": (0, ["of the record", "synthetic"]), "a": (1, ["of the record"])}
    assert (faults, unused) == ({}, {})


def test_what_is_not_used_is_said_with_its_number(tmp_path, caplog):
    files = [(f"{k}.{end}", A if "g" in end else b"a") for k in range(3) for end in ("jpg", "mask.png", "txt")]
    listed(shard(tmp_path / "x.tar", *files, ("0.depth.png", B)))
    said = "x.tar: not used: 3 pictures .mask.png, 1 pictures .depth.png, which belong to other pictures"
    assert said in caplog.text


def test_names_that_differ_in_case_are_two():
    group = Group()
    assert group.add("B.jpg", (0, 1))
    assert group.add("b.jpg", (1, 1))
    assert not group.add("b.JPG", (2, 1))
    assert sort_out(group, ["txt"]).bare == ["B", "b"]
