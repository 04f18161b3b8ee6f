"""Data sets of the Hugging Face library, from the disk."""

from importlib.util import find_spec

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
    files = []
    for pair in PAIRS[:2]:
        files.append(tmp_path / pair.name)
        files[-1].write_bytes(pair.data)
    rows(image=[str(path) for path in files] + ["/none.jpg"], text=["a", "b", "c"]).save_to_disk(
        str(tmp_path / "names")
    )
    named = data(tmp_path / "names")
    batch = named.dataset("train").__getitems__([0, 1, 2])
    assert batch.index.tolist()[:2] == [0, 1]
    (fault,) = named.log("train").found.values()
    assert (fault.kind, fault.place) == ("a missing file", f"{tmp_path / 'names'}[train] row 2")
    rows(image=[pair.data for pair in PAIRS[:2]] + [None], text=["a", "b", None]).save_to_disk(str(tmp_path / "bytes"))
    binary = data(tmp_path / "bytes")
    assert torch.equal(binary.dataset("train").__getitems__([0, 1]).images, batch.images[:2])
    assert [fault.kind for fault in binary.log("train").found.values()] == ["no caption"]


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
