"""Any folder of pictures: formats, captions from everywhere, one rule for sizes, the reader of training."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.errors import InputError
from eval.samples import geneval
from eval.samples.captions import by_table
from eval.samples.folder import SampleFolder, write_samples
from eval.samples.pictures import fitted
from eval.samples.plain import at_one_size, numbered_like, open_folder, picture_names, sizes_of
from modules.images.files import read_rgb

ORIENTATION = 0x0112


def picture(size: tuple[int, int] = (12, 8), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures of every kind that other programs leave: formats, subfolders, turned, transparent, 16 bits, CMYK."""
    root = tmp_path / "theirs"
    save(root / "10.png", picture((16, 16), 1))
    save(root / "2.png", picture((16, 16), 2))
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    save(root / "a" / "turned.jpg", picture((24, 16), 3), exif=turned, quality=95)
    clear = picture((16, 16), 4).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((16, 16)))
    save(root / "a" / "clear.webp", clear, lossless=True)
    deep = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    save(root / "b" / "deep.png", Image.fromarray(deep))
    save(root / "b" / "print.jpg", picture((20, 16), 5).convert("CMYK"), quality=95)
    (root / "notes.txt").write_text("not a picture")
    (root / ".hidden.png").write_bytes(b"")
    return root


NAMES = ["2.png", "10.png", "a/clear.webp", "a/turned.jpg", "b/deep.png", "b/print.jpg"]


def test_all_kinds_are_read_as_training_reads_them_and_come_to_one_size_by_one_rule(mixed: Path):
    folder = open_folder(mixed)
    assert [record["file"] for record in folder.records] == NAMES == picture_names(mixed)
    assert not folder.captioned and folder.caption_index.tolist() == list(range(6)) and folder.condition == "theirs"
    assert sizes_of(folder) == {(16, 16): 4, (24, 16): 1, (16, 20): 1}  # the turned one stands upright
    with pytest.raises(InputError, match=r"3 sizes, as 16x16 and 16x24 pixels: .* --size 16"):
        at_one_size([folder], None)
    (whole,) = at_one_size([folder], 8)
    images = whole.images()
    assert images.shape == (6, 3, 8, 8) and "short side to 8 px" in whole.fitting
    for name, image in zip(NAMES, images, strict=True):
        expected = fitted(read_rgb(io.BytesIO((mixed / name).read_bytes()), name), 8)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))
    assert images[2, :, 0].float().mean() > 230  # what is transparent is white
    assert abs(images[4].float().mean() - 127.5) < 2  # 16 bits are not cut off


def test_pictures_of_one_size_stay_as_they_are(tmp_path: Path):
    for k in range(3):
        save(tmp_path / "p" / f"{k}.png", picture((16, 16), k))
    (folder,) = at_one_size([open_folder(tmp_path / "p")], 16)
    assert folder.fit is None and folder.fitting is None
    np.testing.assert_array_equal(folder.images()[1].permute(1, 2, 0).numpy(), np.asarray(picture((16, 16), 1)))


ROWS = [("b.png", "a cat"), ("a.png", "a dog, or two"), ("sub/c.png", "a cat")]


def table(kind: str) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps({"file_name": f, "text": t}) + "\n" for f, t in ROWS).encode()
    if kind == "csv":
        return ("\ufeffimage,caption\n" + "".join(f'{f},"{t}"\n' for f, t in ROWS)).encode()
    if kind == "tsv":
        return ("File\tPrompt\n" + "".join(f"{f[:-4]}\t{t}\n" for f, t in ROWS)).encode()
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(arrow.table({"path": [f for f, _ in ROWS], "prompt": [t for _, t in ROWS]}), out)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "txt", "option"])
def test_captions_come_from_tables_and_texts(tmp_path: Path, kind: str):
    root, given = tmp_path / "p", None
    for k, (name, text) in enumerate(ROWS):
        path = save(root / name, picture((16, 16), k))
        if kind == "txt":
            path.with_suffix(".txt").write_text(f"\n {text}\nanother\n")
    if kind == "option":
        given = tmp_path / "elsewhere.csv"
        given.write_bytes(table("csv"))
    elif kind != "txt":
        (root / f"captions.{kind}").write_bytes(table(kind))
    folder = open_folder(root, given)
    assert folder.captioned
    assert dict(zip([r["file"] for r in folder.records], folder.captions, strict=True)) == dict(ROWS)
    index = {r["file"]: (r["caption_index"], r["sample_index"]) for r in folder.records}
    assert index == {"a.png": (0, 0), "b.png": (1, 0), "sub/c.png": (1, 1)}


def test_rows_without_files_go_in_order(tmp_path: Path):
    (tmp_path / "c.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    assert by_table(tmp_path / "c.jsonl", ["2.png", "10.png"]) == {"2.png": "one", "10.png": "two"}
    with pytest.raises(InputError, match=r"2 captions and no column of files .*3 pictures"):
        by_table(tmp_path / "c.jsonl", ["1.png", "2.png", "3.png"])


WRONG = {
    "names 'c.png', which is no picture here": "file_name,caption\nc.png,x\n",
    "has no caption for a.png": "file_name,caption\na.png,\n",
    "gives a.png a second caption": "file_name,caption\na.png,x\na.png,y\n",
    "1 of 2 pictures have no caption": "file_name,caption\na.png,x\n",
    "holds no captions": "file_name,caption\n",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_tables_are_refused_in_a_line(tmp_path: Path, line: str):
    for name in ("a.png", "b.png"):
        save(tmp_path / "p" / name, picture())
    (tmp_path / "p" / "captions.csv").write_text(WRONG[line])
    with pytest.raises(InputError, match=line):
        open_folder(tmp_path / "p")


def test_a_table_of_labels_gives_no_captions(tmp_path: Path):
    """A metadata.csv is often one of labels: in a folder it is passed over, by --captions it is refused."""
    for name in ("a.png", "b.png"):
        save(tmp_path / "p" / name, picture())
    place = tmp_path / "p" / "metadata.csv"
    place.write_text("file_name,label\na.png,3\nb.png,4\n")
    assert not open_folder(tmp_path / "p").captioned
    with pytest.raises(InputError, match="no column of captions"):
        open_folder(tmp_path / "p", place)
    for name in ("a", "b"):
        (tmp_path / "p" / f"{name}.txt").write_text(f"a {name}")
    assert open_folder(tmp_path / "p").captions == ["a a", "a b"]


def test_captions_of_real_images_are_not_needed(tmp_path: Path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "p" / name, picture())
    (tmp_path / "p" / "a.txt").write_text("a caption")
    with pytest.raises(InputError, match="1 of 2 pictures have no caption"):
        open_folder(tmp_path / "p")
    assert not open_folder(tmp_path / "p", wanted=False).captioned
    (tmp_path / "p" / "b.txt").write_text("another")
    assert open_folder(tmp_path / "p", wanted=False).captions == ["a caption", "another"]


def test_quotes_of_a_tsv_stay_where_they_are_no_csv_quotes(tmp_path: Path):
    """As in PartiPrompts' file; a program that quotes as csv does is understood too."""
    raw = 'file\tprompt\na.png\t"G I G G L E" painted in letters\nb.png\tthe word "WOMBAT"\n'
    (tmp_path / "raw.tsv").write_text(raw)
    assert by_table(tmp_path / "raw.tsv", ["a.png", "b.png"]) == {
        "a.png": '"G I G G L E" painted in letters', "b.png": 'the word "WOMBAT"'
    }  # fmt: skip
    (tmp_path / "quoted.tsv").write_text('file\tprompt\na.png\t"say ""hello""\tnow"\n')
    assert by_table(tmp_path / "quoted.tsv", ["a.png"]) == {"a.png": 'say "hello"\tnow'}
    (tmp_path / "open.tsv").write_text('file\tprompt\na.png\t"never closed\nb.png\ttwo\n')
    assert by_table(tmp_path / "open.tsv", ["a.png", "b.png"]) == {"a.png": '"never closed', "b.png": "two"}


def test_what_is_no_folder_of_pictures(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        open_folder(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere does not exist: name a folder of pictures"):
        open_folder(tmp_path / "nowhere")
    save(tmp_path / "one.png", picture())
    with pytest.raises(InputError, match=r"one\.png is no folder"):
        open_folder(tmp_path / "one.png")
    save(tmp_path / "p" / "a.png", picture())
    (tmp_path / "p" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.jpg is no picture"):
        open_folder(tmp_path / "p")
    (tmp_path / "p" / "b.jpg").unlink()
    for name in ("captions.csv", "metadata.jsonl"):
        (tmp_path / "p" / name).write_text("")
    with pytest.raises(InputError, match=r"holds .* and .*: name one by --captions"):
        open_folder(tmp_path / "p")


def ours(path: Path, captions: list[str]) -> SampleFolder:
    truth = {"objects": [], "background": None, "relation": None, "count": 1}
    records = [
        {"caption": c, "caption_index": 7 - k, "sample_index": 0, "condition": "glide", "mentioned": truth}
        for k, c in enumerate(captions)
    ]
    return write_samples(path, [picture((16, 16), k) for k in range(len(captions))], records)


def test_pictures_of_another_model_get_the_numbers_of_our_captions(tmp_path: Path):
    first = ours(tmp_path / "ours", ["a dog, or two", "a cat"])
    for k, (name, _) in enumerate(ROWS[:2]):
        save(tmp_path / "karlo" / name, picture((16, 16), 9 + k))
    (tmp_path / "karlo" / "captions.csv").write_bytes(table("csv").rsplit(b"\n", 2)[0] + b"\n")
    theirs = numbered_like(open_folder(tmp_path / "karlo"), first)
    assert [(r["file"], r["caption_index"]) for r in theirs.records] == [("b.png", 6), ("a.png", 7)]
    assert theirs.records[0]["mentioned"] == first.records[0]["mentioned"] and theirs.condition == "karlo"
    twice = numbered_like(
        open_folder(tmp_path / "karlo"), ours(tmp_path / "twice", ["a dog, or two", "a cat", "a cat"])
    )
    assert [(r["file"], r["caption_index"]) for r in twice.records] == [("b.png", 5), ("a.png", 7)]
    other = ours(tmp_path / "other", ["a cat", "a bird"])
    assert numbered_like(open_folder(tmp_path / "karlo"), other) == open_folder(tmp_path / "karlo")


def test_a_caption_with_several_numbers_gives_each_its_pictures(tmp_path: Path):
    """Ours: "a cat" under 6 and 5; theirs: three pictures of it. In the order of numbers, the rest to the last."""
    first = ours(tmp_path / "ours", ["a dog", "a cat", "a cat"])
    for k in range(3):
        save(tmp_path / "theirs" / f"{k}.png", picture((16, 16), k)).with_suffix(".txt").write_text("a cat")
    found = numbered_like(open_folder(tmp_path / "theirs"), first).records
    assert [(r["file"], r["caption_index"], r["sample_index"]) for r in found] == [
        ("0.png", 5, 0), ("1.png", 6, 0), ("2.png", 6, 1)
    ]  # fmt: skip


METADATA = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


def test_genevals_folders_are_written_and_read(tmp_path: Path):
    records = [
        {"caption": METADATA["prompt"], "caption_index": 3, "sample_index": k, "condition": "x", "geneval": METADATA}
        for k in range(2)
    ]
    folder = write_samples(tmp_path / "s", [picture((16, 16), k) for k in range(2)], records)
    assert geneval.write_layout(folder, tmp_path / "out") == 1
    place = tmp_path / "out" / "00003"
    assert json.loads((place / "metadata.jsonl").read_text()) == METADATA
    assert sorted(p.name for p in (place / "samples").iterdir()) == ["0000.png", "0001.png"]
    save(place / "grid.png", picture())
    again = open_folder(tmp_path / "out")
    assert again.captions == [METADATA["prompt"]] * 2 and again.records[0]["geneval"] == METADATA
    assert (again.images() == folder.images()).all()
    (place / "metadata.jsonl").write_text('{"prompt": "x", "tag": "colour", "include": []}')
    with pytest.raises(InputError, match="the tag is one of single_object"):
        open_folder(tmp_path / "out")
