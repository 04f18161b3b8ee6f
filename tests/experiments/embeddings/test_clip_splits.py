"""Other splits than those that a CLIP was trained with: its training pairs in validation and test are counted."""

import pytest
import yaml

from benchmarks.made_up_data.formats import samples, write_text_files
from experiments.data.sources import make_data
from experiments.embeddings.clip_splits import shared_pairs, warn_of_shared_pairs

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
