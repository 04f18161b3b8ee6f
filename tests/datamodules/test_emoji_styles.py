"""Emoji of several styles, from packages that the tests make in Iconify's format. Needs the optional renderer."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks.made_up_data.formats import write_package
from datamodules.captions import CaptionConfig
from datamodules.emoji import split_of
from datamodules.emoji_styles import EmojiStylesDataModule, drawings_of, with_article
from datamodules.rendered import iconify
from modules.errors import InputError

with_renderer = pytest.mark.skipif(find_spec("resvg_py") is None, reason="the optional renderer is not installed")

NAMES = {f"thing-{k}": f"{0x1F400 + k:x}" for k in range(40)}
LICENCE = {"title": "Apache 2.0", "spdx": "Apache-2.0", "url": "https://example.org/licence"}


def content(prefix, title, colour, names=NAMES, **more):
    """The files of a package: a disc of a colour for every name, in a 32 x 16 view for the first."""
    body = f'<circle cx="8" cy="8" r="7" fill="{colour}"/>'
    icons = {name: {"body": body} for name in names}
    icons[next(iter(names))] |= {"width": 32}
    return {
        "icons.json": {
            "prefix": prefix,
            "icons": {**icons, **more},
            "aliases": {"x": {"parent": "thing-1"}},
            "height": 16,
        },
        "info.json": {"prefix": prefix, "name": title, "author": {"name": "An Author"}, "license": LICENCE},
        "package.json": {"name": f"@iconify-json/{prefix}", "version": "1.2.3"},
        "chars.json": {code: name for name, code in names.items() if code},
    }


def pack(folder, files, version="1.2.3"):
    """As `npm pack` leaves it, with a file that leads out of it."""
    return write_package(folder, {**files, "../../escaped.txt": {}}, version)


@pytest.fixture
def folder(tmp_path):
    pack(tmp_path, content("red", "Red Emoji", "#f00"))
    pack(tmp_path, content("blue", "Blue Emoji Flat", "#00f", {**NAMES, "thing-2-medium-dark": "1f402-1f3fe"}))
    return tmp_path


def make(folder, **changes):
    return EmojiStylesDataModule(
        **{
            "packages": folder if isinstance(folder, list) else str(folder),
            "image_size": 24,
            "cache_dir": None,
            **changes,
        }
    )


def test_captions_are_of_name_and_style(folder):
    data = make(folder)
    captions = [caption for split in ("train", "val", "test") for caption in data.captions(split)]
    assert sorted(captions) == sorted(
        f"a thing {k}, in the {style} style" for k in range(40) for style in ("Red", "Blue Flat")
    )
    plain = make(folder, caption="{name} {style}", skin_tones=True)
    toned = {caption for split in ("train", "val", "test") for caption in plain.captions(split)}
    assert len(toned) == 81
    assert "thing 2 medium dark Blue Flat" in toned
    assert {"red", "thing", "flat"} <= set(plain.vocabulary())


@with_renderer
def test_a_pair_shows_its_own_drawing_in_its_own_style(folder):
    data = make(folder)
    batch = data.dataset("train").__getitems__(range(data.size("train")))
    pixels = ((batch.images + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    for caption, picture in zip(batch.captions, pixels, strict=True):
        # The one that is twice as wide as high is centred: its disc lies in the upper left quarter of the square.
        middle = picture[12, 6] if "thing 0" in caption else picture[12, 12]
        assert middle.tolist() == ([255, 0, 0] if "Red" in caption else [0, 0, 255]), caption
        assert picture[0, 0].tolist() == [255, 255, 255]
        assert picture[23, 23].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("box", "view"), [((2, 3, 16, 32), "-6 3 32 32"), ((2, 3, 32, 16), "2 -5 32 32")])
def test_a_drawing_that_is_not_square_is_in_the_middle(box, view):
    assert f'viewBox="{view}"' in iconify.Icon("x", "", box, ()).svg()


def test_all_drawings_of_an_emoji_are_in_one_split(folder):
    data = make(folder, skin_tones=True)
    where = {}
    for split in ("train", "val", "test"):
        for drawing in data.drawings(split):
            where.setdefault(drawing.family, set()).add(split)
            assert split_of(drawing.family) == split
    assert len(where) == 40
    assert all(len(splits) == 1 for splits in where.values())
    assert set.union(*where.values()) == {"train", "val", "test"}
    judge = make(folder, skin_tones=True, train_split="unrestricted")
    assert judge.size("train") == 81


def test_an_emoji_is_one_family_whatever_a_set_calls_it(tmp_path):
    flags = {"flag-france": "1f1eb-1f1f7", "flag-in-hole": "26f3"}
    files = content("other", "Other", "#0f0", {"so-and-so": "1f402", "no-emoji": "", "toned": "1f402-1f3fd"} | flags)
    sets = [iconify.read_set(pack(tmp_path, each)) for each in (content("red", "Red", "#f00"), files)]
    found = {(drawing.prefix, drawing.icon.name): drawing for drawing in drawings_of(sets)}
    families = {found[key].family for key in (("red", "thing-2"), ("other", "so-and-so"), ("other", "toned"))}
    assert families == {"1F402"}
    assert (found["other", "toned"].toned, found["other", "so-and-so"].toned) == (True, False)
    assert found["other", "no-emoji"].family == "no emoji"
    assert found["other", "flag-france"].name == "flag of france"
    assert found["other", "flag-in-hole"].name == "flag in hole"


def test_a_smaller_split_is_a_prefix_and_the_key_holds_the_versions(folder):
    whole, some = make(folder), make(folder, train_size=7)
    assert some.captions("train") == whole.captions("train")[:7]
    assert whole.data_hash("train") != some.data_hash("train")
    assert {"red 1.2.3", "blue 1.2.3"} <= set(whole.source_key("train"))
    with pytest.raises(InputError, match=r"val_size is 999, but there are \d+ drawings in the val split"):
        make(folder, val_size=999).size("val")


def test_each_licence_is_named(folder):
    said = make(folder).attribution
    assert "Red Emoji by An Author (Apache 2.0, https://example.org/licence)" in said
    assert "Blue Emoji Flat" in said


def test_an_unpacked_package_and_a_list_of_packages_are_the_same(folder, tmp_path):
    files = content("red", "Red Emoji", "#f00")
    (tmp_path / "unpacked" / "red").mkdir(parents=True)
    for name, value in files.items():
        (tmp_path / "unpacked" / "red" / name).write_text(json.dumps(value))
    assert make(tmp_path / "unpacked").captions("test") == make([str(folder / "iconify-json-red-1.2.3.tgz")]).captions(
        "test"
    )
    assert make(tmp_path / "unpacked" / "red").size("train") == make(tmp_path / "unpacked").size("train")


def test_nothing_of_an_archive_is_unpacked(folder, tmp_path):
    make(folder).captions("train")
    assert not list(tmp_path.parent.rglob("escaped.txt"))


def test_hidden_and_turned_icons_are_left_out(tmp_path):
    files = content("red", "Red", "#f00", gone={"body": "", "hidden": True}, turned={"body": "", "rotate": 1})
    assert {icon.name for icon in iconify.read_set(pack(tmp_path, files)).icons} == set(NAMES)


def damaged(change):
    def make_it(tmp_path):
        files = content("red", "Red", "#f00")
        change(files)
        return pack(tmp_path, files)

    return make_it


def cut(tmp_path):
    path = pack(tmp_path, content("red", "Red", "#f00"))
    path.write_bytes(path.read_bytes()[:-200])
    return path


def noise(tmp_path):
    path = tmp_path / "iconify-json-red-1.2.3.tgz"
    path.write_bytes(b"no archive at all")
    return path


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (damaged(lambda files: files.pop("icons.json")), r"has no package/icons.json; name a package of Iconify's"),
        (damaged(lambda files: files.pop("info.json")), r"has no package/info.json"),
        (damaged(lambda files: files["info.json"].pop("license")), r"not an Iconify package \(KeyError: 'license'\)"),
        (damaged(lambda files: files["icons.json"].update(icons=[1])), "not an Iconify package"),
        (damaged(lambda files: files["icons.json"]["icons"]["thing-1"].update(width=0)), "'thing-1' has no size"),
        (damaged(lambda files: files["chars.json"].update({"zz": "thing-1"})), "not an Iconify package"),
        (cut, "not a whole .tgz"),
        (noise, "not a whole .tgz"),
        (lambda tmp_path: tmp_path / "missing.tgz", r"missing.tgz: No such file.*`unclip data download-emoji`"),
    ],
)
def test_what_is_no_package_is_named_in_one_line(tmp_path, make_it, message):
    with pytest.raises(InputError, match=message) as error:
        iconify.read_set(make_it(tmp_path))
    assert "\n" not in str(error.value)


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(
        InputError, match=r"no Iconify packages there.*download-emoji --out .* gets four sets, with --sets"
    ):
        make(tmp_path).captions("train")


@with_renderer
def test_a_drawing_that_is_no_svg_is_named():
    broken = iconify.Icon("broken", "<g", (0, 0, 16, 16), ())
    with pytest.raises(InputError, match="the drawing 'broken' can't be rendered"):
        iconify.render(broken, 16)


@pytest.mark.parametrize("template", ["{nome}", "{name", "in the {style} style", "{name} {0}"])
def test_a_wrong_template_is_refused(template):
    with pytest.raises(InputError, match="caption"):
        EmojiStylesDataModule("x", caption=template)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bridge at night", "a bridge at night"),
        ("owl", "an owl"),
        ("scissors", "scissors"),
        ("bunch of grapes", "a bunch of grapes"),
        ("octopus", "an octopus"),
        ("unicorn", "a unicorn"),
        ("1st place medal", "1st place medal"),
    ],
)
def test_articles(name, expected):
    assert with_article(name) == expected


@with_renderer
def test_rendering_is_cached_by_content(folder, tmp_path):
    cached = make(folder, cache_dir=str(tmp_path / "cache"))
    first = cached.dataset("test").__getitems__([0]).images
    assert len(list((tmp_path / "cache").glob("emoji_styles-test-24px-*.npy"))) == 1
    np.testing.assert_array_equal(first, make(folder).dataset("test").__getitems__([0]).images)


def test_held_out_combinations_are_of_things_and_styles_that_training_knows(folder):
    whole, held = make(folder), make(folder, hold_out=0.5, test_split="combinations")
    key = lambda drawings: {(d.family, d.prefix) for d in drawings}  # noqa: E731
    test, train = key(held.drawings("test")), key(held.drawings("train"))
    assert test | train == key(whole.drawings("train"))
    assert not test & train
    assert {family for family, _ in test} <= {family for family, _ in train}
    assert 0 < len(test) < len(train)
    assert {prefix for _, prefix in test} == {"red", "blue"}
    assert key(held.drawings("val")) == key(whole.drawings("val"))
    assert key(make(folder, hold_out=0.5).drawings("test")) == key(whole.drawings("test"))
    assert key(make(folder, hold_out=0.5, train_split="unrestricted").drawings("train")) >= test | train


@pytest.fixture
def more(tmp_path):
    """An older set without code points: half of the things, partly in one word, a toned one, a flag, an unknown one."""
    names = [f"thing{k}" if k % 4 else f"thing-{k}" for k in range(0, 40, 2)]
    files = content(
        "old", "Old Emoji (v1)", "#0f0", dict.fromkeys([*names, "thing-2-medium", "flag-for-chad", "x-ray"], "")
    )
    del files["chars.json"]
    (tmp_path / "more").mkdir()
    pack(tmp_path / "more", files)
    return str(tmp_path / "more")


def test_further_sets_show_the_training_splits_things_to_training_alone(folder, more):
    pack(folder, content("green", "Green", "#0f0", {"flag-chad": "1f1f9-1f1e9"}))
    plain, both = (
        make(folder, hold_out=0.5, test_split="combinations", training_packages=packages) for packages in (None, more)
    )
    for split in ("val", "test"):
        assert both.drawings(split) == plain.drawings(split)
        assert both.source_key(split) == plain.source_key(split)
    added = [d for d in both.drawings("train") if d.prefix == "old"]
    assert [d for d in both.drawings("train") if d.prefix != "old"] == plain.drawings("train")
    trained = {d.name: d.family for d in make(folder).drawings("train")}
    expected = {f"thing {k}" for k in range(0, 40, 2)} | {"flag of chad"}
    assert {d.name for d in added} == expected & set(trained)
    assert 5 < len(added) < 20
    assert {d.style for d in added} == {"Old v1"}
    assert all(d.family == trained[d.name] for d in added)
    assert "a thing 6, in the Old v1 style" in both.captions("train")
    assert {"old", "v1"} <= set(both.vocabulary())
    assert "old 1.2.3" in both.source_key("train")
    assert "Old Emoji (v1) by An Author" in both.attribution
    everything = make(folder, training_packages=more, train_split="unrestricted")
    assert {d.name for d in everything.drawings("train") if d.prefix == "old"} == expected


def test_a_set_is_named_once(folder):
    with pytest.raises(InputError, match="training_packages: the set 'red' is in packages, too; name it in one"):
        make(folder, training_packages=[str(folder / "iconify-json-red-1.2.3.tgz")]).captions("train")


@pytest.mark.parametrize(
    ("title", "style"),
    [
        ("Noto Emoji", "Noto"),
        ("Fluent Emoji Flat", "Fluent Flat"),
        ("Noto Emoji (v1)", "Noto v1"),
        ("Emoji One (Colored)", "Emoji One Colored"),
        ("Streamline Emojis", "Streamline"),
        ("OpenMoji", "OpenMoji"),
        ("Emoji", "Emoji"),
        ("", ""),
    ],
)
def test_a_style_is_called_as_its_set(title, style):
    assert iconify.IconSet("x", title, "1", "", "", ()).style == style


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"hold_out": 1.5}, "hold_out is 1.5"), ({"test_split": "combinations"}, "hold_out is 0: give hold_out")],
)
def test_combinations_that_are_not_held_out_are_refused(folder, settings, reason):
    with pytest.raises(InputError, match=reason):
        make(folder, **settings)


@with_renderer
def test_augmented_copies_follow_the_training_drawings_and_have_their_captions(folder):
    plain, more = make(folder), make(folder, augmented_copies=2)
    count = plain.size("train")
    assert more.size("train") == 3 * count and more.captions("train") == 3 * plain.captions("train")
    first, copied = (data.dataset("train").__getitems__(list(range(count))).images for data in (plain, more))
    assert first.equal(copied)
    copies = more.dataset("train").__getitems__(list(range(count, 3 * count))).images
    again = make(folder, augmented_copies=2).dataset("train").__getitems__(list(range(count, 3 * count))).images
    assert copies.equal(again)
    assert not copies[:count].equal(first) and not copies[:count].equal(copies[count:])
    for split in ("val", "test"):
        assert more.size(split) == plain.size(split) and more.data_hash(split) == plain.data_hash(split)
    assert len({make(folder, augmented_copies=copies).data_hash("train") for copies in (0, 1, 2)}) == 3


def test_copies_do_not_make_a_word_more_frequent(folder):
    captions = make(folder).captions("train")
    often = len(captions) // 2 + 1
    plain, more = (make(folder, augmented_copies=copies).vocabulary(often) for copies in (0, 3))
    assert plain == more and "the" in plain and "red" not in plain


def test_each_drawing_has_copies_of_its_own(tmp_path):
    """Drawings that differ in a point's place only: other maps, so copies differ by more than the point."""
    bars = {name: {"body": f'<path d="M2 2h9v5h{k / 100:g}z"/>'} for k, name in enumerate(NAMES)}
    files = content("red", "Red Emoji", "#f00")
    files["icons.json"]["icons"] = bars
    data = make(pack(tmp_path, files).parent, augmented_copies=1)
    count = len(data.drawings("train"))
    drawn = data.dataset("train").__getitems__(list(range(2 * count))).images
    apart = [(part[1:] - part[:1]).abs().mean(dim=(1, 2, 3)) for part in (drawn[:count], drawn[count:])]
    assert apart[0].max() < 0.02 < apart[1].min()


def test_copies_are_of_the_drawings_that_train_size_leaves(folder):
    data = make(folder, augmented_copies=2, train_size=3)
    assert data.size("train") == 9 and len(data.drawings("train")) == 3


def test_copies_that_cannot_be_are_refused(folder):
    with pytest.raises(InputError, match="augmented_copies"):
        make(folder, augmented_copies=-1)
    with pytest.raises(InputError, match="set augmented_copies to 0"):
        make(folder, augmented_copies=1, captions=CaptionConfig(added={"mine": "folder"}))
