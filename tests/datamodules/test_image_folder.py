"""Folders: where captions are, what is out of place, what is said of a folder that holds none."""

import json

import pytest

from benchmarks.made_up_data.formats import samples, write_metadata, write_pictures, write_text_files
from datamodules.captions import CaptionConfig
from datamodules.faults import FaultPolicy
from datamodules.image_folder import ImageFolderDataModule
from datamodules.pictures.module import SplitConfig
from modules.errors import InputError

ALL = SplitConfig(val_share=0.0, test_share=0.0)
PICTURE = samples(1, 16)[0].data


def data(folder, **more):
    options = {"splits": ALL, "faults": FaultPolicy(max_skipped=100), "image_size": 16, **more}
    return ImageFolderDataModule(str(folder), **options)


def listed(folder, **more):
    """Captions by key, and the kinds of faults by the end of their place."""
    module = data(folder, **more)
    pairs = module.pairs("train")
    found = {key: pairs.captions.all_of(k) for k, key in enumerate(pairs.keys)}
    faults = {fault.place.rpartition("/")[2]: fault.kind for fault in module.log("train").found.values()}
    return found, faults


def put(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_lines_of_a_text_file_are_captions(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, a_dot_txt="a dog\r\n\n a cat  \n", sub__b_dot_PNG=PICTURE, sub__b_dot_txt="a bird")
    put(tmp_path, README_dot_txt="of no picture", _dot_hidden__c_dot_jpg=PICTURE, lonely_dot_txt="no picture")
    put(tmp_path, d_dot_jpg=PICTURE, e_dot_jpg=PICTURE, e_dot_txt="")
    assert listed(tmp_path) == (
        {"a.jpg": ["a dog", "a cat"], "sub/b.PNG": ["a bird"]},
        {"lonely.txt": "a caption without a picture", "d.jpg": "no caption", "e.jpg": "an empty caption"},
    )


def test_names_are_captions_if_asked_for(tmp_path):
    put(tmp_path, **{"a_red-ish_bicycle-003.jpg": PICTURE, "two dogs.jpg": PICTURE, "0001.jpg": PICTURE})
    found, faults = listed(tmp_path, captions_from="names")
    assert found == {"a_red-ish_bicycle-003.jpg": ["a red ish bicycle"], "two dogs.jpg": ["two dogs"]}
    assert faults == {"0001.jpg": "an empty caption"}


def test_tables_in_subfolders_name_pictures_from_their_own_folder(tmp_path):
    for part, captions in {"one": ["a", "b"], "two": ["c", ["d", "e"]]}.items():
        put(tmp_path, **{f"{part}__pictures__{k}_dot_jpg": PICTURE for k in range(2)})
        rows = [{"file_name": f"pictures/{k}.jpg", "text": text} for k, text in enumerate(captions)]
        (tmp_path / part / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    put(tmp_path, one__pictures__extra_dot_jpg=PICTURE)
    found, faults = listed(tmp_path)
    assert found == {
        "one/pictures/0.jpg": ["a"],
        "one/pictures/1.jpg": ["b"],
        "two/pictures/0.jpg": ["c"],
        "two/pictures/1.jpg": ["d", "e"],
    }
    assert faults == {"extra.jpg": "no caption"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../up.jpg", "a path that leads out of the folder"),
        ("a/../../up.jpg", "a path that leads out of the folder"),
        ("/etc/passwd", "an absolute path: name files from the folder"),
        ("~/x.jpg", "an absolute path: name files from the folder"),
        ("..\\up.jpg", "a path with backslashes: write / between folders"),
    ],
)
def test_a_table_cannot_lead_out_of_its_folder(tmp_path, name, reason):
    put(tmp_path / "data", good_dot_jpg=PICTURE)
    put(tmp_path, up_dot_jpg=PICTURE)
    rows = [{"file_name": "good.jpg", "text": "good"}, {"file_name": name, "text": "bad"}]
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, faults = listed(tmp_path / "data")
    assert found == {"good.jpg": ["good"]}
    assert faults == {"metadata.jsonl:2": reason}


def test_bad_lines_of_a_table_cost_themselves_only(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, b_dot_jpg=PICTURE, c_dot_jpg=PICTURE)
    lines = [
        b'{"file_name": "a.jpg", "text": "good"}',
        b"{",
        b"[1]",
        b'{"text": "x"}',
        b'{"file_name": "b.jpg", "text": "na\xefve"}',
    ]
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join([*lines, b'{"file_name": "c.jpg", "text": 3}', b""]))
    found, faults = listed(tmp_path)
    assert found == {"a.jpg": ["good"]}
    assert faults == {
        "metadata.jsonl:2": "a line that is not JSON",
        "metadata.jsonl:3": "a line that is not JSON",
        "metadata.jsonl:4": "a line without file_name",
        "metadata.jsonl:5": "a caption that is not UTF-8",
        "metadata.jsonl:6": "a caption that is not text",
    }


def test_a_csv_of_a_spreadsheet_is_read(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, b_dot_jpg=PICTURE)
    (tmp_path / "metadata.csv").write_bytes(b'\xef\xbb\xbffile_name,text\r\na.jpg,"one, two\r\nthree"\r\nb.jpg,\r\n')
    assert listed(tmp_path) == ({"a.jpg": ["one, two three"]}, {"metadata.csv:4": "an empty caption"})


def test_a_field_that_is_far_too_long_costs_its_line_only(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, b_dot_jpg=PICTURE)
    (tmp_path / "metadata.csv").write_text(f"file_name,text\na.jpg,{'word ' * 60_000}\nb.jpg,good\n")
    assert listed(tmp_path) == ({"b.jpg": ["good"]}, {"metadata.csv:2": "a caption that is too long"})
    (tmp_path / "metadata.csv").unlink()
    lines = ['{"file_name": "a.jpg", "text": ' + "[" * 100_000, '{"file_name": "b.jpg", "text": "good"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert listed(tmp_path)[0] == {"b.jpg": ["good"]}


def test_columns_are_chosen_and_missing_ones_named(tmp_path):
    pairs = samples(4, 16)
    write_metadata(tmp_path / "j", pairs)
    write_metadata(tmp_path / "c", pairs, "metadata.csv")
    columns = CaptionConfig(columns={"synthetic": "recaption"})
    assert data(tmp_path / "j", captions=columns).captions("train") == data(tmp_path / "c", captions=columns).captions(
        "train"
    )
    wrong = CaptionConfig(columns={"ground_truth": "titel"})
    with pytest.raises(InputError, match=r"metadata\.csv has no column 'titel'; it has file_name, text, recaption"):
        data(tmp_path / "c", captions=wrong).size("train")
    with pytest.raises(InputError, match=r"metadata\.jsonl: no line has 'titel'; there are file_name, recaption, text"):
        data(tmp_path / "j", captions=wrong).size("train")


def test_a_folder_that_holds_nothing_useful_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="none: no such folder; name the folder of the pictures"):
        data(tmp_path / "none").size("train")
    with pytest.raises(InputError, match="no pictures"):
        data(tmp_path).size("train")
    write_pictures(tmp_path, samples(3, 16))
    with pytest.raises(InputError, match=r"no captions; put a \.txt beside every picture, or a metadata\.jsonl"):
        data(tmp_path).size("train")
    with pytest.raises(InputError, match=r"neither metadata\.jsonl nor metadata\.csv"):
        data(tmp_path, captions_from="metadata").size("train")


def test_splits_of_their_own_folders(tmp_path):
    for split, count, first in (("train", 6, 0), ("validation", 3, 10), ("test", 2, 20)):
        write_text_files(tmp_path / split, samples(count, 16, first=first))
    module = data(
        tmp_path / "train", val=str(tmp_path / "validation"), test=str(tmp_path / "test"), splits=SplitConfig()
    )
    assert [module.size(split) for split in ("train", "val", "test")] == [6, 3, 2]
    limited = data(
        tmp_path / "train",
        val=str(tmp_path / "validation"),
        splits=SplitConfig(train_size=4, val_size=2, test_share=0.2),
    )
    assert [limited.size(split) for split in ("train", "val")] == [4, 2]
    with pytest.raises(InputError, match=r"no pairs for the val split .*, or raise splits\.val_share"):
        data(tmp_path / "train").size("val")


def test_linked_folders_are_followed_once(tmp_path):
    write_text_files(tmp_path / "real", samples(2, 16))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match="no pictures"):
        data(tmp_path / "data").size("train")
    own = FaultPolicy(follow_links=True)
    assert data(tmp_path / "data", faults=own).size("train") == 2
    assert data(tmp_path / "real").size("train") == 2


def test_vocabulary_and_texts_hold_every_caption_that_may_be_drawn(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, a_dot_txt="a dog\na Cat", b_dot_jpg=PICTURE, b_dot_txt="a cat")
    module = data(tmp_path)
    assert module.captions("train") == ["a dog", "a cat"]
    assert list(module.texts("train")) == ["a dog", "a Cat", "a cat"]
    assert module.vocabulary() == ["a", "cat", "dog"]
    assert module.vocabulary(min_count=2) == ["a", "cat"]


def test_a_line_that_names_nothing_and_a_picture_in_no_table_are_one_lost_pair(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, b_dot_jpg=PICTURE, c_dot_jpg=PICTURE)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "good"}\n{"file_name": "b.jp\n')
    found, faults = listed(tmp_path)
    assert found == {"a.jpg": ["good"]}
    assert sorted(faults.values()) == ["a line that is not JSON", "no caption"]  # b's, and c, which no line names


def test_a_line_with_too_many_fields_is_no_caption_cut_short(tmp_path):
    put(tmp_path, a_dot_jpg=PICTURE, b_dot_jpg=PICTURE)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.jpg,a red bird, on a branch\nb.jpg,good\n")
    found, faults = listed(tmp_path)
    assert found == {"b.jpg": ["good"]}
    assert faults == {"metadata.csv:2": "a line with too many fields"}  # the picture that it names is the one lost pair
    (tmp_path / "metadata.csv").write_text("file_name,text,text\na.jpg,one,two\n")
    with pytest.raises(InputError, match=r"metadata\.csv has two columns 'text': rename one"):
        data(tmp_path).size("train")


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    import os

    put(tmp_path, a_dot_jpg=PICTURE, a_dot_txt="a dog", closed__b_dot_jpg=PICTURE, closed__b_dot_txt="a cat")
    plain = os.scandir

    def scandir(path):  # The user who runs the tests may be one who may read everything.
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    closed = str(tmp_path / "closed")
    assert listed(tmp_path) == ({"a.jpg": ["a dog"]}, {"closed": "a folder that cannot be read"})
    assert data(tmp_path).log("train").summary() == "nothing skipped from train"
    module = data(tmp_path)
    module.size("train")
    assert module.log("train").summary().startswith("at least 1 skipped from train")
    with pytest.raises(InputError, match=r"closed: a folder that cannot be read \(Permission denied\); correct it"):
        data(tmp_path, faults=FaultPolicy("refuse")).size("train")
    closed = str(tmp_path)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        data(tmp_path).size("train")


def test_columns_are_refused_where_there_are_none(tmp_path):
    write_text_files(tmp_path, samples(3, 16))
    columns = CaptionConfig(columns={"ground_truth": "text"})
    for how, what in (("auto", "text files"), ("names", "file names")):
        with pytest.raises(InputError, match=rf"captions\.columns is .*, but captions of {what} have no columns"):
            data(tmp_path, captions=columns, captions_from=how).size("train")
