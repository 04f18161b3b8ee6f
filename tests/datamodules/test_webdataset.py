"""Shards: what is in them, where they come from, what is wrong with them, and the library as the oracle."""

import io
import json
import logging
import pickle
import tarfile
import warnings

import fsspec
import numpy as np
import pytest
import torch

from benchmarks.made_up_data.broken_data import Explosive
from benchmarks.made_up_data.formats import samples, write_shards
from datamodules.captions import CaptionConfig
from datamodules.faults import FaultPolicy
from datamodules.pictures.module import SplitConfig
from datamodules.pictures.shards import ShardReader, windowed
from datamodules.webdataset import WebDatasetDataModule, expand
from modules.errors import InputError

ALL = SplitConfig(val_share=0.0, test_share=0.0)
PAIRS = samples(12, 16)


def data(train, **more):
    options = {
        "splits": ALL,
        "faults": FaultPolicy(max_skipped=1000),
        "image_size": 16,
        "batch_size": 4,
        "cache_dir": None,
    }
    return WebDatasetDataModule(str(train), **{**options, **more})


def faults(module):
    module.size("train")
    return {fault.place.rpartition("/")[2]: fault.kind for fault in module.log("train").found.values()}


def tar(path, *files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", PAIRS, [3, 7, 2])


def test_the_pairs_are_those_that_the_library_streams(shards):
    import webdataset

    # Its iteration leaves files open; that is its business.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streamed = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False))
    pairs = data(shards[0].parent).pairs("train")
    assert [key.partition(":")[2] for key in pairs.keys] == [sample["__key__"] for sample in streamed]
    assert pairs.captions.all_first() == [sample["txt"].decode() for sample in streamed]
    assert [pairs.reader.read(k) for k in range(len(pairs))] == [sample["jpg"] for sample in streamed]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_kinds_of_pictures(tmp_path, kind):
    write_shards(tmp_path, samples(3, 16, kind), [3])
    assert data(tmp_path).dataset("train").__getitems__([0, 1, 2]).images.std() > 0.1


def test_places_are_named_by_paths_folders_globs_braces_lists_and_urls(shards, monkeypatch):
    folder = shards[0].parent
    names = [str(path) for path in shards]
    assert expand(str(folder)) == names
    assert expand(f"{folder}/*.tar") == names
    assert expand(f"{folder}/{{00000..00002}}.tar") == names
    assert expand(f"{names[2]}::{names[0]}") == [names[2], names[0]]
    assert expand(f"file://{names[1]}") == [names[1]]
    monkeypatch.setenv("HOME", str(folder.parent))
    assert expand("~/shards/0000[01].tar") == names[:2]
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/far/{path.name}": path.read_bytes() for path in shards})
    assert expand("memory://far/*.tar") == [f"memory:///far/{path.name}" for path in shards]
    assert expand("memory://far/{00000..00001}.tar") == ["memory://far/00000.tar", "memory://far/00001.tar"]
    for nothing in (f"{folder}/*.zip", "memory://far/*.zip"):
        with pytest.raises(InputError, match="no shards there"):
            expand(nothing)
    with pytest.raises(InputError, match="commands are not run"):
        expand("pipe:cat x.tar")
    with pytest.raises(InputError, match="no-such-protocol"):
        expand("no-such-protocol://x/*.tar")


@pytest.mark.parametrize("cached", [True, False])
def test_remote_shards_are_copied_once_or_read_piece_by_piece(shards, tmp_path, cached):
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/away/{path.name}": path.read_bytes() for path in shards})
    cache = str(tmp_path / "cache") if cached else None
    local = data(shards[0].parent).dataset("train").__getitems__(range(12))
    remote = data("memory://away/*.tar", cache_dir=cache).dataset("train").__getitems__(range(12))
    assert torch.equal(local.images, remote.images)
    assert local.captions == remote.captions
    memory.rm("/away", recursive=True)
    if cached:
        assert len(list((tmp_path / "cache" / "shards").glob("*.tar"))) == 3
        assert not list((tmp_path / "cache" / "shards").glob("*.tmp"))
    memory.pipe({"/away/00001.tar": shards[1].read_bytes()})
    assert faults(data("memory://away/{00000..00001}.tar", cache_dir=cache)) == {"00000.tar": "a missing shard"}


def test_the_index_is_kept_until_the_shard_changes(shards, tmp_path, monkeypatch):
    from datamodules import webdataset

    calls = []
    plain = webdataset.index_shard
    monkeypatch.setattr(webdataset, "index_shard", lambda *args: calls.append(args[1]) or plain(*args))
    make = lambda **more: data(shards[0].parent, cache_dir=str(tmp_path / "cache"), **more)  # noqa: E731
    captions = make().captions("train")
    assert make().captions("train") == captions
    assert len(calls) == 3
    make(captions=CaptionConfig(columns={"synthetic": "recaption"})).size("train")
    assert len(calls) == 6
    write_shards(tmp_path / "new", samples(3, 16, first=50), [3])[0].replace(shards[0])
    assert make().captions("train")[3:] == captions[3:]
    assert calls[6:] == [str(shards[0])]


def test_members_of_any_order_case_and_depth_make_pairs(tmp_path):
    picture = PAIRS[0].data
    tar(
        tmp_path / "x.tar",
        ("a/1.TXT", b"one"),
        ("a/2.jpg", picture),
        ("a/1.Jpg", picture),
        ("a/2.json", json.dumps({"txt": "two"}).encode()),
        ("__meta__", b"of the library"),
        ("noextension", b"x"),
        ("3.seg.png", picture),
        ("3.txt", b"three"),
    )
    pairs = data(tmp_path).pairs("train")
    assert dict(zip(pairs.keys, pairs.captions.texts, strict=True)) == {
        "x.tar:a/1": "one",
        "x.tar:a/2": "two",
    }


def test_members_that_are_wrong_cost_themselves_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, bomb = PAIRS[0].data, pickle.dumps(Explosive())
    tar(
        tmp_path / "x.tar",
        ("good.jpg", picture), ("good.txt", b"good"),
        ("good.jpg", b"again"),
        ("../up.jpg", picture), ("../up.txt", b"up"),
        ("/root.jpg", picture), ("/root.txt", b"root"),
        ("silent.jpg", picture),
        ("lonely.txt", b"no picture"),
        ("pickled.jpg", picture), ("pickled.pkl", bomb),
        ("notjson.jpg", picture), ("notjson.json", bomb),
        ("list.jpg", picture), ("list.json", b"[1]"),
        ("bytes.jpg", picture), ("bytes.txt", bomb),
        ("long.jpg", picture), ("long.txt", b"x" * (1 << 21)),
    )  # fmt: skip
    module = data(tmp_path)
    assert faults(module) == {
        "x.tar:good.jpg": "a key that occurs twice",
        "up.jpg": "a path that leads out of the shard",
        "up.txt": "a path that leads out of the shard",
        "root.jpg": "a path that leads out of the shard",
        "root.txt": "a path that leads out of the shard",
        "x.tar:silent": "no caption",
        "x.tar:lonely": "a pair without a picture",
        "x.tar:pickled": "a pickle where a caption is expected",
        "x.tar:notjson": "a record that is not JSON",
        "x.tar:list": "a record that is not JSON",
        "x.tar:bytes": "a caption that is not UTF-8",
        "x.tar:long": "a caption that is too long",
    }
    assert module.captions("train") == ["good"]
    assert not (tmp_path / Explosive.path).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]


@pytest.mark.parametrize("place", ["data", "header", "end", "first"])
def test_a_shard_that_breaks_off_keeps_what_is_before(shards, place):
    whole = shards[1].read_bytes()
    with tarfile.open(shards[1]) as archive:
        members = archive.getmembers()
    last = members[-1]  # The last pair's txt.
    ends = {"data": last.offset_data + 3, "header": last.offset + 100, "end": last.offset_data + 512, "first": 100}
    shards[1].write_bytes(whole[: ends[place]])
    module = data(shards[0].parent)
    kind = "a shard that cannot be read" if place == "first" else "a shard that is cut off"
    lost = {"00001.tar:000010006": "no caption"} if place in ("data", "header") else {}
    assert faults(module) == {"00001.tar": kind, **lost}
    assert module.size("train") == {"data": 11, "header": 11, "end": 12, "first": 5}[place]


def test_a_damaged_header_in_the_middle_is_no_silent_end(shards):
    content = bytearray(shards[1].read_bytes())
    with tarfile.open(shards[1]) as archive:
        at = archive.getmembers()[9].offset
    content[at : at + 100] = b"\xff" * 100
    shards[1].write_bytes(content)
    module = data(shards[0].parent)
    assert faults(module)["00001.tar"] == "a shard that is cut off"
    assert module.size("train") == 3 + 3 + 2


def test_a_shard_that_is_missing_counts_as_many_pairs_as_the_others_hold(shards):
    folder = shards[0].parent
    shards[1].unlink()
    module = data(f"{folder}/{{00000..00002}}.tar")
    assert faults(module) == {"00001.tar": "a missing shard"}
    assert len(module.log("train")) == round((3 + 2) / 2)
    with pytest.raises(InputError, match=r"2 skipped from train \(2 for a missing shard\): more than the 1 that"):
        data(f"{folder}/{{00000..00002}}.tar", faults=FaultPolicy()).size("train")
    with pytest.raises(InputError, match=r"00001\.tar: a missing shard; correct it"):
        data(f"{folder}/{{00000..00002}}.tar", faults=FaultPolicy("refuse")).size("train")


def test_a_shard_that_vanishes_or_shrinks_while_training_is_counted(shards, caplog):
    caplog.set_level(logging.WARNING)
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        write_shards(shards[0].parent, PAIRS, [3, 7, 2])
        module = data(shards[0].parent)
        module.size("train")
        damage(shards[0])
        seen = {index for batch in module.train_dataloader() for index in batch.index.tolist()}
        assert seen <= set(range(3, 12))
        assert len(module.log("train")) == 3


def test_shards_are_shuffled_and_pairs_within_a_window():
    groups = np.repeat([0, 1, 2, 3, 4], [4, 1, 6, 3, 2])
    permute = windowed(groups, 2)
    orders = [permute(np.random.default_rng(k)) for k in range(30)]
    for order in orders:
        assert sorted(order) == list(range(16))
        found = groups[order]
        windows, start = [], 0
        while start < 16:
            ids = list(dict.fromkeys(found[start:].tolist()))[:2]
            size = int(np.isin(groups, ids).sum())
            assert set(found[start : start + size]) == set(ids)
            windows.append(ids)
            start += size
        assert len(windows) == 3 or sum(map(len, windows)) == 5
    assert len({tuple(order) for order in orders}) == 30
    assert any((np.diff(groups[order]) != 0).sum() > 4 for order in orders)  # Shards mix within a window.


def test_windows_are_used_in_training_and_keep_every_pair(shards):
    module = data(shards[0].parent, shuffle_shards=1)
    order = [index for batch in module.train_dataloader() for index in batch.index.tolist()]
    assert sorted(order) == list(range(12))
    groups = module.pairs("train").reader.shard[order]
    assert (np.diff(groups) != 0).sum() == 2


def test_few_files_stay_open(shards, monkeypatch):
    monkeypatch.setattr(ShardReader, "OPEN", 2)
    reader = data(shards[0].parent).pairs("train").reader
    contents = [reader.read(k) for k in range(12)]
    assert contents == [pair.data for pair in PAIRS]
    assert len(reader._open) == 2
    assert len(pickle.loads(pickle.dumps(reader))._open) == 0


def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch, tmp_path):
    from datamodules import webdataset

    monkeypatch.setattr(webdataset, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[wds\]"'):
        data(tmp_path).size("train")


def test_no_room_for_a_copy_is_said_before_copying(shards, tmp_path, monkeypatch):
    from datamodules import webdataset

    fsspec.filesystem("memory").pipe({"/full/x.tar": shards[0].read_bytes()})
    usage = webdataset.shutil._ntuple_diskusage(10, 9, 1_000)
    monkeypatch.setattr(webdataset.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="has 0 MB free: set cache_dir to another folder"):
        data("memory://full/x.tar", cache_dir=str(tmp_path / "cache")).size("train")


def test_the_picture_is_not_its_mask_whichever_comes_first(tmp_path):
    picture, mask = PAIRS[0].data, PAIRS[1].data
    for number, files in enumerate(
        ([("x.mask.png", mask), ("x.jpg", picture)], [("x.jpg", picture), ("x.a.png", mask)])
    ):
        tar(tmp_path / f"{number}.tar", *files, ("x.txt", b"a"))
        pairs = data(tmp_path / f"{number}.tar").pairs("train")
        assert pairs.reader.read(0) == picture


@pytest.mark.parametrize(
    "pattern", ["{0}/00000.tar::{0}/00000.tar", "{0}::{0}/*2.tar", "{0}/00000.tar::{0}/./00000.tar"]
)
def test_a_shard_that_is_named_twice_is_refused(shards, pattern):
    with pytest.raises(InputError, match=r"names .*/0000[02]\.tar twice, whose pairs would count double"):
        expand(pattern.format(shards[0].parent))


def test_a_cut_shard_costs_as_many_pairs_as_can_be_known(shards):
    def lost(train):
        module = data(train)
        module.size("train")
        (fault,) = [fault for fault in module.log("train").found.values() if fault.kind == "a shard that is cut off"]
        return fault.pairs, fault.exact

    with tarfile.open(shards[1]) as archive:
        third = [member for member in archive.getmembers() if member.name.endswith(".jpg")][2].offset
    shards[1].write_bytes(shards[1].read_bytes()[:third])
    folder = shards[0].parent
    assert lost(folder) == (1, False)  # The others hold 2.5 pairs on average, this one 2 before the cut.
    write_shards(folder / "more", samples(30, 16, first=50), [30])[0].rename(folder / "00003.tar")
    assert lost(folder) == (round((3 + 2 + 30) / 3) - 2, True)
    assert lost(shards[1]) == (1, False)  # Nothing to compare with.
    (folder / "00001_stats.json").write_text(json.dumps({"count": 8, "successes": 7}))
    assert lost(shards[1]) == lost(folder) == (5, True)  # As img2dataset noted.


def test_another_shuffling_of_shards_is_said_when_a_run_goes_on(shards):
    before, after = (data(shards[0].parent, shuffle_shards=k).train_dataloader() for k in (2, None))
    with pytest.warns(UserWarning, match=r"\(order shuffle_shards 2 -> shuffled\)"):
        after.load_state_dict(before.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before.load_state_dict(before.state_dict())
        after.load_state_dict({"n": 12, "batch_size": 4, "seed": 0, "world": 1})  # Of a run before orders had names.
