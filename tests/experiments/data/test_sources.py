"""Which data lie at a place: a folder is what lies in it, whatever it is called."""

import pytest

from benchmarks.made_up_data.formats import samples, write_shards, write_text_files
from experiments.cli import main
from experiments.data.sources import names_shards, section_of
from modules.errors import InputError


def kind(place):
    return section_of(str(place))["class_path"].rpartition(".")[2]


@pytest.mark.parametrize("name", ["my.target.pics", "set.tar.d", "tarpit.tartan", "x.tar", "a.tar.unpacked/birds"])
def test_a_folder_of_pictures_may_have_any_name(tmp_path, name):
    write_text_files(tmp_path / name, samples(2, 8))
    assert kind(tmp_path / name) == "ImageFolderDataModule"


def test_a_download_beside_pictures_is_not_taken_for_the_data(tmp_path, caplog):
    write_text_files(tmp_path / "birds", samples(2, 8))
    write_shards(tmp_path, samples(2, 8), [2])
    assert kind(tmp_path) == "ImageFolderDataModule"
    assert "holds 00000.tar beside pictures with captions: the pictures are read" in caplog.text


def test_a_download_beside_pictures_whose_texts_end_in_capitals(tmp_path):
    write_text_files(tmp_path, samples(2, 8))
    for text in tmp_path.glob("*.txt"):
        text.rename(text.with_suffix(".TXT"))
    write_shards(tmp_path, samples(2, 8), [2])
    assert kind(tmp_path) == "ImageFolderDataModule"


def test_a_folder_of_shards_may_hold_a_preview(tmp_path):
    write_shards(tmp_path, samples(2, 8), [2])
    (tmp_path / "preview.png").touch()
    (tmp_path / "README.txt").touch()
    assert kind(tmp_path) == "WebDatasetDataModule"


def test_what_is_packed_is_to_be_unpacked(tmp_path):
    (tmp_path / "a.tar.gz").touch()
    with pytest.raises(InputError, match=r"holds a\.tar\.gz and no pictures: unpack it"):
        section_of(str(tmp_path))


@pytest.mark.parametrize(
    ("place", "shards"),
    [
        ("a/00000.tar", True),
        ("a/{00000..00012}.tar", True),
        ("a/*.tar", True),
        ("a/{x.tar,y.tar}", True),
        ("s3://bucket/00000.tar?version=1", True),
        ("https://host/a.tar.gz", True),
        ("a/b::c/d.tar", True),
        ("my.target.pics", False),
        ("a.tar.unpacked/birds", False),
        ("https://host.tar/birds", False),
    ],
)
def test_names_of_shards(place, shards):
    assert names_shards(place) == shards


def test_a_check_of_data_without_a_usable_pair_says_where_and_why(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    write_text_files(tmp_path / "x", samples(2, 8))
    for path in (tmp_path / "x").glob("*.txt"):
        path.write_bytes(b"caf\xe9")
    page = tmp_path / "page.html"
    assert main(["data", "check", str(tmp_path / "x"), "--splits", "train", "--out", str(page)]) == 2
    out, error = capsys.readouterr()
    assert "2 unusable (2 a caption that is not UTF-8); the first: " in out
    assert "nothing found" not in out
    assert "a caption that is not UTF-8" in page.read_text()
    assert "no pair of it can be used; 2 faults, the first: " in error


def test_too_few_pairs_are_said_with_settings_that_exist(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    write_text_files(tmp_path / "x", samples(1, 8))
    assert main(["data", "check", str(tmp_path / "x"), "--out", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert "lower splits.val_share and splits.test_share" in error
    assert "train_share" not in error
