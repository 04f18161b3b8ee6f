"""Tables, names and COCO files as other programs write them: used, or refused by what is the matter."""

import json
import unicodedata

import pytest

from benchmarks.made_up_data.formats import samples
from datamodules.coco import CocoDataModule
from datamodules.faults import FaultPolicy
from datamodules.image_folder import ImageFolderDataModule
from datamodules.pictures.module import SplitConfig
from eval.errors import InputError as EvalInputError
from eval.samples.coco import read_annotations
from modules.errors import InputError

PICTURE = samples(1, 8)[0].data
OPTIONS = {"splits": SplitConfig(val_share=0.0, test_share=0.0), "faults": FaultPolicy(max_skipped=100)}
COMPOSED, PARTED = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


def read(folder):
    """Caption by key, and kinds of faults."""
    data = ImageFolderDataModule(str(folder), **OPTIONS)
    found = dict(zip(data.pairs("train").keys, data.captions("train"), strict=True))
    return found, sorted(fault.kind for fault in data.log("train").found.values())


def put(folder, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)


@pytest.mark.parametrize(("on_disk", "in_table"), [(COMPOSED, PARTED), (PARTED, COMPOSED)])
def test_names_are_found_in_any_unicode_form(tmp_path, on_disk, in_table):
    (tmp_path / on_disk).write_bytes(PICTURE)
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{in_table},a cup\n", encoding="utf-8")
    assert read(tmp_path) == ({on_disk: "a cup"}, [])
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / in_table).with_suffix(".txt").write_text("a cup")
    assert read(tmp_path) == ({on_disk: "a cup"}, [])


def test_text_files_may_end_in_capitals(tmp_path):
    put(tmp_path, a_JPG=PICTURE, a_TXT=b"one", b_jpg=PICTURE, b_txt=b"two", b_TXT=b"not this", c_TXT=b"alone")
    faults = ["a caption without a picture", "a second text file of a picture"]
    assert read(tmp_path) == ({"a.JPG": "one", "b.jpg": "two"}, faults)


@pytest.mark.parametrize(
    "text",
    ["file_name, text\na.jpg, a dog\n", ' file_name ,text \na.jpg, "a dog"\n', "\ufefftext,file_name\na dog,a.jpg"],
)
def test_a_header_may_have_spaces(tmp_path, text):
    put(tmp_path, a_jpg=PICTURE, metadata_csv=text.encode())
    assert read(tmp_path) == ({"a.jpg": "a dog"}, [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata_csv",
            "file_name,text\na.jpg,a".encode("utf-16"),
            "metadata.csv is UTF-16 or UTF-32: save it as UTF-8",
        ),
        ("metadata_csv", "file_name,text\na.jpg,a".encode("utf-16-le"), "is UTF-16 or UTF-32"),
        ("metadata_jsonl", '{"file_name": "a.jpg"}'.encode("utf-32"), "is UTF-16 or UTF-32"),
        (
            "metadata_jsonl",
            b'[{"file_name": "a.jpg", "text": "a"}]',
            "is a JSON array: write each of its objects on a line",
        ),
        ("metadata_jsonl", b'\n [\n{"file_name": "a.jpg", "text": "a"}\n]\n', "is a JSON array"),
    ],
)
def test_tables_of_another_kind_are_told_apart(tmp_path, name, content, message):
    put(tmp_path, a_jpg=PICTURE, **{name: content})
    with pytest.raises(InputError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("part1\\\\a.jpg", "a path with backslashes: write / between folders"),
        ("C:\\\\data\\\\a.jpg", "an absolute path: name files from the folder"),
        ("/data/a.jpg", "an absolute path: name files from the folder"),
        ("../a.jpg", "a path that leads out of the folder"),
        ("part1/../../a.jpg", "a path that leads out of the folder"),
        ("none.jpg", "an entry that points nowhere"),
    ],
)
def test_a_path_that_is_not_used_is_said_for_what_it_is(tmp_path, name, kind):
    table = f'{{"file_name": "b.jpg", "text": "b"}}\n{{"file_name": "{name}", "text": "a"}}\n'
    put(tmp_path, b_jpg=PICTURE, metadata_jsonl=table.encode())
    assert read(tmp_path) == ({"b.jpg": "b"}, [kind])


def coco(folder, images, annotations, bom=b"", write=True):
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "captions_train2017.json"
    path.write_bytes(bom + json.dumps({"images": images, "annotations": annotations}).encode())
    for image in images if write else []:
        place = folder / "train2017" / str(image.get("file_name", "x"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(PICTURE)
    data = CocoDataModule(str(folder), **OPTIONS)
    data.pairs("train")
    found = {key: data.pairs("train").captions.all_of(k) for k, key in enumerate(data.pairs("train").keys)}
    return found, sorted(fault.kind for fault in data.log("train").found.values()), path


def test_ids_may_be_texts_or_missing_and_pictures_in_folders(tmp_path):
    images = [
        {"id": "00a1", "file_name": "part1/0.jpg"},
        {"id": "12", "file_name": "1.jpg"},
        {"id": "0012", "file_name": "2.jpg"},
    ]
    annotations = [
        {"image_id": "00a1", "caption": "second"},
        {"id": 5, "image_id": "00a1", "caption": "first"},
        {"image_id": 12, "caption": "twelve"},
        {"id": "x", "image_id": "0012", "caption": "another"},
    ]
    found, faults, path = coco(tmp_path, images, annotations, b"\xef\xbb\xbf")
    assert found == {"part1/0.jpg": ["first", "second"], "1.jpg": ["twelve"], "2.jpg": ["another"]}
    assert faults == []
    with pytest.raises(EvalInputError, match="an image's id is '00a1'; whole numbers are needed"):
        read_annotations(path)


@pytest.mark.parametrize(("on_disk", "in_file"), [(COMPOSED, PARTED), (PARTED, COMPOSED)])
def test_names_in_a_coco_file_are_found_in_any_unicode_form(tmp_path, on_disk, in_file):
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / on_disk).write_bytes(PICTURE)
    images, annotations = [{"id": 1, "file_name": in_file}], [{"image_id": 1, "caption": "a cup"}]
    found, faults, _ = coco(tmp_path, images, annotations, write=False)
    assert (found, faults) == ({on_disk: ["a cup"]}, [])


def test_a_coco_folder_is_not_left_by_links(tmp_path):
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "a.jpg").write_bytes(PICTURE)
    folder = tmp_path / "coco" / "train2017"
    folder.mkdir(parents=True)
    (folder / "part1").symlink_to(secret)
    (folder / "b.jpg").symlink_to(secret / "a.jpg")
    images = [{"id": 1, "file_name": "part1/a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "file_name": "c.jpg"}]
    (folder / "c.jpg").write_bytes(PICTURE)
    annotations = [{"image_id": k, "caption": "a cup"} for k in (1, 2, 3)]
    found, faults, _ = coco(tmp_path / "coco", images, annotations, write=False)
    assert found == {"c.jpg": ["a cup"]}
    assert faults == ["a link that leads out of the folder"] * 2 + ["an entry that points nowhere"] * 2


def test_what_is_missing_in_a_coco_file_is_named(tmp_path):
    images = [{"id": 1, "file_name": "0.jpg"}, {"file_name": "1.jpg"}, {"id": 2}, {"id": 2.5, "file_name": "3.jpg"}]
    annotations = [{"image_id": 1, "caption": "a"}, {"caption": "b"}, {"image_id": 1}, {"image_id": 1, "caption": None}]
    found, faults, _ = coco(tmp_path, images, annotations)
    assert found == {"0.jpg": ["a"]}
    assert faults == [
        "an annotation without caption",
        "an annotation without caption",
        "an annotation without image_id",
        "an image whose id is neither a whole number nor text",
        "an image without file_name",
        "an image without id",
    ]


def test_an_evaluation_needs_no_ids_of_captions(tmp_path):
    images, annotations = [{"id": "7", "file_name": "0.jpg"}], [{"image_id": 7, "caption": "a  b"}]
    _, _, path = coco(tmp_path, images, annotations)
    assert read_annotations(path) == ({7: "0.jpg"}, [{"id": 0, "image_id": 7, "caption": "a b"}])
