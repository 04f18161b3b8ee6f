"""Data sets of the Hugging Face library, from the disk."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.made_up_data.formats import samples, write_metadata, write_rows
from datamodules import huggingface
from datamodules.captions import CaptionConfig
from datamodules.faults import FaultPolicy
from datamodules.huggingface import HuggingFaceDataModule
from datamodules.pictures.module import SplitConfig
from modules.errors import InputError

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="the optional package datasets is not installed")

ALL = SplitConfig(val_share=0.0, test_share=0.0)
PAIRS = samples(6, 16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()


def data(path, **more):
    return HuggingFaceDataModule(
        str(path), **{"image_size": 16, "splits": ALL, "faults": FaultPolicy(max_skipped=9), **more}
    )


def rows(**columns):
    import datasets

    return datasets.Dataset.from_dict(columns)


def test_columns_are_chosen(tmp_path):
    write_rows(tmp_path / "rows", PAIRS)
    lists = data(tmp_path / "rows")
    assert sorted(lists.texts("train")) == sorted(text for pair in PAIRS for text in pair.captions)
    single = data(tmp_path / "rows", captions=CaptionConfig(columns={"ground_truth": "caption"}))
    assert list(single.texts("train")) == [pair.captions[0] for pair in PAIRS] == lists.captions("train")
    with pytest.raises(
        InputError, match=r"no column 'title'; it has image, text, caption. Name the caption's in captions\.columns"
    ):
        data(tmp_path / "rows", captions=CaptionConfig(columns={"ground_truth": "title"})).size("train")
    with pytest.raises(InputError, match=r"no column 'picture'; .* Set image_column"):
        data(tmp_path / "rows", image_column="picture").size("train")
    with pytest.raises(InputError, match=r"column 'text' holds .*no pictures"):
        data(tmp_path / "rows", image_column="text").size("train")


def test_splits_are_the_data_sets_own(tmp_path):
    import datasets

    parts = {"train": rows(image=[pair.data for pair in PAIRS], text=["a"] * 6)}
    parts["validation"] = parts["train"].select(range(2))
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    module = data(tmp_path / "d", val="validation", test="validation", splits=SplitConfig())
    assert [module.size(split) for split in ("train", "val", "test")] == [6, 1, 1]
    with pytest.raises(InputError, match="no split 'dev'; there are train, validation"):
        data(tmp_path / "d", val="dev").size("val")


def test_a_folder_that_load_dataset_reads(tmp_path):
    write_metadata(tmp_path / "folder", PAIRS)
    module = data(tmp_path / "folder")
    assert sorted(module.captions("train")) == sorted(pair.captions[0] for pair in PAIRS)
    assert module.dataset("train").__getitems__([0]).images.std() > 0.1


def test_pictures_may_be_bytes_or_file_names_and_bad_ones_are_counted(tmp_path):
    files = [tmp_path / "names" / pair.name for pair in PAIRS[:2]]
    rows(image=[str(path) for path in files] + [f"{tmp_path}/names/none.jpg"], text=["a", "b", "c"]).save_to_disk(
        str(tmp_path / "names")
    )
    for path, pair in zip(files, PAIRS, strict=False):
        path.write_bytes(pair.data)
    named = data(tmp_path / "names")
    batch = named.dataset("train").__getitems__([0, 1, 2])
    assert batch.index.tolist()[:2] == [0, 1]
    (fault,) = named.log("train").found.values()
    assert (fault.kind, fault.place) == ("a missing file", f"{tmp_path / 'names'}[train] row 2")
    rows(image=[pair.data for pair in PAIRS[:2]] + [None], text=["a", "b", None]).save_to_disk(str(tmp_path / "bytes"))
    binary = data(tmp_path / "bytes")
    assert torch.equal(binary.dataset("train").__getitems__([0, 1]).images, batch.images[:2])
    assert [fault.kind for fault in binary.log("train").found.values()] == ["no caption"]


OUTSIDE = {
    "a column of names": {"image": "{secret}"},
    "dots": {"image": "{names}/../secret.png"},
    "a device": {"image": "/dev/zero"},
    "a FIFO": {"image": "{names}/fifo.png"},
    "a link": {"image": "{names}/link.png"},
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_row_names_no_file_outside(tmp_path, what):
    place = tmp_path / "names"
    own, secret = place / PAIRS[0].name, tmp_path / "secret.png"
    value = OUTSIDE[what]["image"].format(secret=secret, names=place)
    rows(image=[str(own), value], text=["a", "b"]).save_to_disk(str(place))
    own.write_bytes(PAIRS[0].data)
    secret.write_bytes(PAIRS[1].data)
    if "fifo" in value:
        os.mkfifo(value)
    module = data(place)
    if "link" in value:
        Path(value).symlink_to(secret)
        with pytest.raises(InputError, match="a link that leads out of the folder"):
            module.size("train")
        return
    if "fifo" in value:
        with pytest.raises(InputError, match="a file that is no regular file"):
            module.size("train")
        return
    batch = module.dataset("train").__getitems__([0, 1])
    (fault,) = module.log("train").found.values()
    assert fault.kind == "a path that leads out of the folder" and fault.place.endswith("row 1")
    assert torch.equal(batch.images[0], batch.images[1])  # Another pair stands in for it.
    if "zero" not in value:
        there = data(place, faults=FaultPolicy(max_skipped=9, follow_links=True)).dataset("train")
        assert not torch.equal(*there.__getitems__([0, 1]).images)


CARDS = {
    "a file": "data_files: {secret}",
    "dots": "data_files: ../secret.csv",
    "dots below": "data_files: [{{split: train, path: [rows/../../secret.csv]}}]",
    "a folder": "data_dir: ..",
    "a URL": "data_files: https://example.org/x.csv",
    "a file in a file": "data_files: zip://x.csv::/etc/x.zip",
}


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("what", CARDS)
def test_a_card_names_no_file_outside(tmp_path, what, card):
    folder, secret = tmp_path / "folder", tmp_path / "secret.csv"
    write_metadata(folder, PAIRS)
    secret.write_text("image,text\na,secret\n")
    text = f"configs:\n- config_name: default\n  {CARDS[what].format(secret=secret)}\n"
    (folder / card).write_text(f"---\n{text}---\n# x\n" if card == "README.md" else text)
    with pytest.raises(InputError, match=f"{card} names '.*', which is not in the folder"):
        data(folder).size("train")


def test_a_card_may_name_files_of_its_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    rows(image=[pair.data for pair in PAIRS], text=["a"] * 6).to_parquet(str(tmp_path / "folder" / "part.parquet"))
    card = "---\nconfigs:\n- config_name: default\n  data_files: part.parquet\n---\nIt says: a/../b::c\n"
    (tmp_path / "folder" / "README.md").write_text(card)
    assert data(tmp_path / "folder").size("train") == 6


@pytest.mark.parametrize(("name", "content"), [("state.json", "_data_files"), ("dataset_dict.json", "splits")])
def test_a_saved_set_names_no_file_outside(tmp_path, name, content):
    import datasets

    rows(image=[b"x"], text=["a"]).save_to_disk(str(tmp_path / "other"))
    if name == "state.json":
        place = tmp_path / "d"
        rows(image=[b"x"], text=["a"]).save_to_disk(str(place))
        change = [{"filename": "../other/data-00000-of-00001.arrow"}]
    else:
        place, change = tmp_path / "d", ["../other"]
        datasets.DatasetDict({"train": rows(image=[b"x"], text=["a"])}).save_to_disk(str(place))
    state = json.loads((place / name).read_text())
    (place / name).write_text(json.dumps({**state, content: change}))
    with pytest.raises(InputError, match=f"{name} names '../other.*', which is not in the folder"):
        data(place).size("train")


def test_rows_travel_to_workers(tmp_path):
    write_rows(tmp_path / "rows", PAIRS)
    here, there = (list(data(tmp_path / "rows", num_workers=n, batch_size=2).train_dataloader()) for n in (0, 2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty, split 'train': ") as error:
        data(tmp_path / "empty").size("train")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[hf\]"'):
        data(tmp_path).size("train")


def test_code_that_a_data_set_brings_along_is_never_run(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n")
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    with pytest.raises(InputError, match="scripted"):
        data(folder).size("train")
    assert not (tmp_path / "ran").exists()
    given = {}

    def of_version_3(path, name=None, split=None, trust_remote_code=None):
        given.update(trust=trust_remote_code)
        return rows(image=[b"x"], text=["a"])

    monkeypatch.setattr(datasets, "load_dataset", of_version_3)
    huggingface.load("name", None, "train")
    assert given == {"trust": False}
