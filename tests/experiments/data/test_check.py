"""`unclip data check`: counts, sizes, long captions, copies, unreadable files and pictures, on a page and a screen."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from datamodules.shapes import ShapesDataModule
from eval.pages.html import png
from experiments.cli import main
from experiments.data.check import check_split
from experiments.data.check_page import summary
from experiments.data.split_report import across_splits
from modules.clip.word_tokenizer import WordTokenizer


def picture(number, size=(40, 30)):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    """12 pictures for training: 1 and 2 are copies of 0, 5 is cut off, 6 has a long caption, 7 none; one of the three
    for the test is the training's number 3."""
    for part, numbers in (("train", range(12)), ("test", (3, 20, 21)), ("val", (30,))):
        (tmp_path / part).mkdir()
        for number in numbers:
            path = tmp_path / part / f"{number:02}.png"
            picture(0 if number in (1, 2) else number, (60, 20) if number == 4 else (40, 30)).save(path)
            words = 9 if number == 6 else 3
            if number != 7:
                path.with_suffix(".txt").write_text(" ".join(["word"] * words) + f" <b>{number}</b>")
    damaged = tmp_path / "train" / "05.png"
    damaged.write_bytes(damaged.read_bytes()[:900])
    parts = ", ".join(f"{part}: {tmp_path / part}" for part in ("train", "val", "test"))
    (tmp_path / "data.yaml").write_text(
        f"data: {{class_path: datamodules.image_folder.ImageFolderDataModule, init_args: {{{parts}, image_size: 16}}}}"
    )
    return tmp_path


def test_everything_that_is_wrong_is_on_the_screen_and_on_the_page(folder, capsys):
    page = folder / "page" / "check.html"
    words = ["data", "check", str(folder / "data.yaml"), "--out", str(page), "--context", "6"]
    assert main(words) == 0
    said = capsys.readouterr().out
    train = next(line.split() for line in said.splitlines() if line.split()[0] == "train")
    assert train[:6] == ["train", "11", "11", "2", "2", "1"]  # pairs, looked at, duplicates, unreadable, too long
    assert "train: 2 unusable (1 " in said
    assert "train: 2 pictures repeat others (the largest group: 0, 1, 2)" in said
    assert "train: 1 caption has more than 6 words" in said
    assert "1 picture is in two splits (such as train 3 and test 0)" in said
    assert len(said.splitlines()) < 24
    html = page.read_text()
    assert "40 to 60, median 40" in html
    assert "05.png" in html
    assert "07.png" in html
    assert "20 to 30, median 30" in html
    assert "&lt;b&gt;6&lt;/b&gt;" in html
    assert "<b>6" not in html
    assert "<link" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_the_page_shows_pictures_of_every_split(folder):
    assert main(["data", "check", "--config", str(folder / "data.yaml"), "--out", str(folder / "check.html")]) == 0
    sheets = re.findall(r'src="data:image/png;base64,([^"]+)"', (folder / "check.html").read_text())
    assert len(sheets) == 3
    contents = [base64.b64decode(sheet) for sheet in sheets]
    pictures = [Image.open(io.BytesIO(content)) for content in contents]
    assert min(min(picture.size) for picture in pictures) > 100
    assert contents == [png(picture) for picture in pictures]


def test_a_split_of_drawn_pictures_is_counted_too(tmp_path):
    data = ShapesDataModule(16, train_size=40, val_size=5, test_size=5, cache_dir=None)
    tokenizer = WordTokenizer(data.vocabulary(), 40, 7)
    report = check_split(data, "train", tokenize=tokenizer, context=7)
    lengths = [len(caption.split()) for caption in data.captions("train")]
    assert report.tokens == [length + 1 for length in lengths]
    assert report.too_long == sum(length > 6 for length in lengths) > 0
    assert (report.pairs, report.looked_at, report.side, report.files, report.faults) == (40, 40, 16, [], [])
    assert sorted(index for group in report.digests.values() for index in group) == list(range(40))
    assert [index for index, _, _ in report.sheet] == [k * 40 // 24 for k in range(24)]
    index, caption, shown = report.sheet[3]
    assert caption == data.captions("train")[index]
    np.testing.assert_array_equal(np.asarray(shown), data.renderer("train", 16)(index))
    assert report.rate > 0
    some = check_split(data, "train", limit=4)
    assert sorted(index for group in some.digests.values() for index in group) == [0, 10, 20, 30]
    assert "nothing found that is wrong" in summary([check_split(data, "val")])


def test_a_tokeniser_that_cuts_is_noticed():
    class Cutting:
        """As open_clip's: 4 tokens, the last of which ends the caption."""

        def __call__(self, captions):
            import torch

            tokens = torch.zeros(len(captions), 4, dtype=torch.int64)
            for row, caption in zip(tokens, captions, strict=True):
                words = [1 + sum(map(ord, word)) % 50 for word in caption.split()][:3]
                row[: len(words) + 1] = torch.tensor([*words, 99])
            return tokens

    data = ShapesDataModule(16, train_size=4, val_size=2, test_size=2, cache_dir=None)
    data.records("train").captions[:] = ["one two", "one two three", "one two three four", "a b c d e"]
    report = check_split(data, "train", tokenize=Cutting(), context=4)
    assert report.tokens == [3, 4, 5, 5]
    assert report.too_long == 2


def test_pictures_in_two_splits_are_found():
    data = ShapesDataModule(16, train_size=10, val_size=5, test_size=5, cache_dir=None)
    train, test = check_split(data, "train"), check_split(data, "test")
    assert across_splits([train, test]) == []
    key = next(iter(test.digests))
    train.digests[key] = [7, 8]
    assert across_splits([train, test]) == [("train", 7, "test", test.digests[key][0])]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "--limit must be 1 or more"),
        (["--context", "0"], "--context must be 1 or more"),
        (["nowhere"], "nowhere: no such folder; name a YAML"),
        ([], "name the data: DATA"),
    ],
)
def test_bad_options_are_one_line(words, message, capsys):
    assert main(["data", "check", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_place_says_what_it_is(tmp_path):
    from experiments.data.sources import section_of

    def kind(path):
        section = section_of(str(path))
        return section["class_path"].removeprefix("datamodules."), section["init_args"]

    assert kind(tmp_path) == ("image_folder.ImageFolderDataModule", {"train": str(tmp_path)})
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "captions_train2017.json").write_text(json.dumps({}))
    assert kind(tmp_path / "coco") == ("coco.CocoDataModule", {"folder": str(tmp_path / "coco")})
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000.tar").write_bytes(b"")
    assert kind(tmp_path / "shards")[0] == "webdataset.WebDatasetDataModule"
    assert kind("x/{000..003}.tar") == ("webdataset.WebDatasetDataModule", {"train": "x/{000..003}.tar"})
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "iconify-json-noto-1.2.3.tgz").write_bytes(b"")
    assert kind(tmp_path / "emoji") == ("emoji_styles.EmojiStylesDataModule", {"packages": str(tmp_path / "emoji")})
    assert kind("hf:imagefolder") == ("huggingface.HuggingFaceDataModule", {"path": "imagefolder"})
    (tmp_path / "unpacked" / "noto").mkdir(parents=True)
    (tmp_path / "unpacked" / "noto" / "icons.json").write_text("{}")
    for place in ("unpacked", "unpacked/noto"):
        assert kind(tmp_path / place) == ("emoji_styles.EmojiStylesDataModule", {"packages": str(tmp_path / place)})
