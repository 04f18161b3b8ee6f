"""Other splits than those that a CLIP was trained with: its training pairs in validation and test are counted."""

import os
from pathlib import Path

import pytest
import yaml

from benchmarks.made_up_data.formats import samples, write_text_files
from benchmarks.trials.fuzz import watched
from experiments.data.sources import make_data
from experiments.embeddings.clip_splits import shared_pairs, training_data, warn_of_shared_pairs

BEFORE = {"val_share": 0.1, "test_share": 0.1}


def section(folder, splits):
    init = {"train": str(folder), "splits": splits, "image_size": 8}
    return {"class_path": "datamodules.image_folder.ImageFolderDataModule", "init_args": init}


@pytest.mark.parametrize("after", [{"val_share": 0.4, "test_share": 0.3}, {"test_size": 50}, BEFORE])
def test_the_clips_training_pairs_are_counted(tmp_path, capsys, after):
    write_text_files(tmp_path / "x", samples(100, 8))
    export = tmp_path / "run" / "clip" / "export"
    export.mkdir(parents=True)
    (export.parent / "config.yaml").write_text(yaml.safe_dump({"data": section(tmp_path / "x", BEFORE)}))
    before, _ = make_data(section(tmp_path / "x", BEFORE))
    data, given = make_data(section(tmp_path / "x", after))
    trained = set(before.pairs("train").keys)
    expected = [(s, len(trained & set(data.pairs(s).keys)), data.size(s)) for s in ("val", "test")]
    found = list(shared_pairs(data, given, str(export)))
    assert found == [row for row in expected if row[1]]
    assert bool(found) == (after is not BEFORE)
    warn_of_shared_pairs(data, given, str(export))
    assert capsys.readouterr().err.count("were training pairs of the CLIP") == len(found)
    assert list(shared_pairs(data, given, "ViT-B-32")) == []


def strangers_clip(tmp_path, init_args):
    export = tmp_path / "run" / "clip" / "export"
    export.mkdir(parents=True, exist_ok=True)
    theirs = {"class_path": "datamodules.image_folder.ImageFolderDataModule", "init_args": init_args}
    (export.parent / "config.yaml").write_text(yaml.safe_dump({"data": theirs}))
    return export


@pytest.mark.parametrize(
    "theirs",
    [
        {"train": "ELSEWHERE", "splits": BEFORE},
        {"train": "OWN", "splits": BEFORE, "cache_dir": "PWNED"},
        {"train": "OWN", "splits": {"class_path": "subprocess.Popen", "init_args": {"args": "touch PWNED"}}},
        {"train": "OWN", "splits": BEFORE, "captions_from": "ELSEWHERE"},
        [1],
        3,
    ],
)
def test_of_a_strangers_clip_only_splits_are_read(tmp_path, monkeypatch, theirs):
    """Its run's config names folders, classes and files: none is read, built or written."""
    monkeypatch.chdir(tmp_path)
    for name in ("own", "elsewhere"):
        write_text_files(tmp_path / name, samples(20, 8))
    after = {"val_share": 0.4, "test_share": 0.3}
    data, given = make_data(section(tmp_path / "own", after))
    if isinstance(theirs, dict):
        places = {"OWN": str(tmp_path / "own"), "ELSEWHERE": str(tmp_path / "elsewhere")}
        theirs = {key: places.get(str(value), value) for key, value in theirs.items()}
    export = strangers_clip(tmp_path, theirs)
    data.pairs("train")
    with watched(tmp_path / "own"):
        found = list(shared_pairs(data, given, str(export)))
    assert bool(found) == (isinstance(theirs, dict) and "cache_dir" in theirs)
    assert not Path("PWNED").exists()


def test_a_fifo_for_a_strangers_config_is_not_waited_for(tmp_path):
    (tmp_path / "clip" / "export").mkdir(parents=True)
    os.mkfifo(tmp_path / "clip" / "config.yaml")
    assert training_data(tmp_path / "clip" / "export") is None
