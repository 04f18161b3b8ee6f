"""Captions: cleaned, packed, drawn."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.captions import CaptionConfig, CaptionFault, clean, usable
from datamodules.faults import Fault
from datamodules.pictures.caption_table import Captions, CaptionTable
from datamodules.pictures.packed import PackedStrings


@pytest.mark.parametrize(
    ("value", "caption"),
    [
        ("  a\tred\n circle ", "a red circle"),
        (b"\xef\xbb\xbfa dog", "a dog"),
        ("Zoë's 犬 🐕".encode(), "Zoë's 犬 🐕"),
        ("a\0dog", "a dog"),
        ("one two three", "one two three"),
    ],
)
def test_a_caption_is_one_line_of_words(value, caption):
    assert clean(value, 3) == caption


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no caption"),
        ("", "an empty caption"),
        (b" \n\t", "an empty caption"),
        (b"na\xefve", "not UTF-8"),
        ("na\udcefve", "not UTF-8"),
        (b"\x80\x04K\x01.", "not UTF-8"),
        (7, "not text"),
        ({"a": 1}, "not text"),
        ("one two three four", "too long"),
        ("\u7ea2" * 193, "too long"),
    ],
)
def test_what_is_no_caption_is_said(value, message):
    with pytest.raises(CaptionFault, match=message):
        clean(value, 3)


def test_a_pair_keeps_the_captions_that_can_be_used_and_tells_of_each_other():
    values = [("a", ["one", "", "one", "two"]), ("b", None), ("b", b"\xff"), ("a", ("three",))]
    captions, faults = usable(values, "here", 10)
    assert captions == [("a", "one"), ("a", "two"), ("a", "three")]
    assert faults == [Fault("here", "an empty caption"), Fault("here", "a caption that is not UTF-8")]
    assert usable([("a", None)], "here", 10) == ([], [Fault("here", "no caption")])
    assert usable([("a", [])], "here", 10) == ([], [Fault("here", "no caption")])


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_packed_strings_are_those_strings(strings):
    strings = [
        text for text in strings if all(not "\ud800" <= c <= "\udc7f" and not "\udd00" <= c <= "\udfff" for c in text)
    ]
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert list(packed) == strings
    assert packed[:2] == strings[:2]
    assert len(packed) == len(strings)
    with pytest.raises(IndexError):
        packed[len(strings)]


def drawn(pairs, config, count=4000):
    captions = Captions(CaptionTable(pairs), config)
    return [captions.drawn(0, np.random.default_rng(k)) for k in range(count)]


MIXED = [[("human", "h1"), ("human", "h2"), ("model", "m1")]]
COLUMNS = {"human": "text", "model": "recaption"}


def shares(found):
    return {caption: found.count(caption) / len(found) for caption in sorted(set(found))}


def test_without_shares_every_caption_is_as_likely():
    assert shares(drawn(MIXED, CaptionConfig(COLUMNS))) == pytest.approx(
        {"h1": 1 / 3, "h2": 1 / 3, "m1": 1 / 3}, abs=0.03
    )


def test_a_share_is_a_sources_and_not_each_captions():
    config = CaptionConfig(COLUMNS, {"human": 0.4, "model": 1.6})
    assert shares(drawn(MIXED, config)) == pytest.approx({"h1": 0.1, "h2": 0.1, "m1": 0.8}, abs=0.03)
    assert Captions(CaptionTable(MIXED), config).first(0) == "m1"


def test_a_source_without_a_share_is_drawn_only_where_there_is_no_other():
    config = CaptionConfig(COLUMNS, {"model": 1.0})
    assert shares(drawn(MIXED, config, 50)) == {"m1": 1.0}
    assert set(drawn([[("human", "h1"), ("human", "h2")]], config, 50)) == {"h1", "h2"}


def test_no_draw_is_always_the_first():
    config = CaptionConfig(COLUMNS, draw=False)
    assert shares(drawn(MIXED, config, 20)) == {"h1": 1.0}
    assert not Captions(CaptionTable(MIXED), config).several
    assert Captions(CaptionTable(MIXED), CaptionConfig(COLUMNS)).several
    assert not Captions(CaptionTable([[("human", "h1")]]), CaptionConfig(COLUMNS)).several


def test_the_digest_is_of_keys_captions_and_sources():
    def of(keys, pairs):
        return Captions(CaptionTable(pairs), CaptionConfig(COLUMNS)).digest(keys)

    base = of(["a"], MIXED)
    assert base == of(["a"], MIXED)
    other = [[("human", "h1"), ("model", "h2"), ("model", "m1")]]
    parted = [[("human", "h1"), ("human", "h"), ("model", "2m1")]]
    assert len({base, of(["b"], MIXED), of(["a"], other), of(["a"], parted), of(["a", ""], MIXED)}) == 5
