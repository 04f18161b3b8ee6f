"""The channels say what they claim to say, at the rates of the configuration, and can be read back."""

import numpy as np
import pytest

from datamodules.rendered import scenes
from datamodules.rendered.channels import CHANNELS, UNRELATED, AltText, channel, descriptive, short
from datamodules.rendered.reading import read
from modules.errors import InputError

RATES = AltText()
MANY = 1500


@pytest.fixture(scope="module")
def pairs():
    return [scenes.make_pair("train", index) for index in range(MANY)]


@pytest.mark.parametrize("name", CHANNELS)
def test_what_a_caption_claims_is_read_back_from_it(pairs, name):
    say = channel(name, RATES)
    for index, pair in enumerate(pairs[:500]):
        caption = say(pair, "train", index)
        assert read(caption.text).said == caption.said


def test_a_descriptive_caption_says_all_and_a_short_one_the_main_subject(pairs):
    for pair in pairs[:200]:
        truth = scenes.describe(pair.scene)
        assert descriptive(pair).said == truth == read(descriptive(pair).text).said
        said = short(pair).said
        (main,) = said["objects"]
        large = [thing for thing in truth["objects"] if thing["size"] == "large"] or truth["objects"]
        assert (main["shape"], main["colour"]) == (large[0]["shape"], large[0]["colour"])
        assert main["size"] is said["background"] is said["relation"] is said["count"] is None


def test_alt_text_leaves_out_and_errs_at_its_rates(pairs):
    rates = AltText(colour=0.5, background=0.3, wrong=0.25, second=1.0, relation=1.0, unrelated=0.4, full_stop=0.1)
    say = channel("alt_text", rates)
    captions = [say(pair, "train", index) for index, pair in enumerate(pairs)]
    truths = [scenes.describe(pair.scene) for pair in pairs]
    backgrounds = [(c.said["background"], t["background"]) for c, t in zip(captions, truths, strict=True)]
    told = [(said, true) for said, true in backgrounds if said is not None]
    near = lambda share, rate, n: abs(share - rate) < 4 * (rate * (1 - rate) / n) ** 0.5  # noqa: E731
    assert near(len(told) / MANY, 0.3, MANY)
    assert near(np.mean([said != true for said, true in told]), 0.25, len(told))
    colours = [thing["colour"] for c in captions for thing in c.said["objects"]]
    assert near(np.mean([colour is not None for colour in colours]), 0.5, len(colours))
    assert near(np.mean([c.text.endswith(".") for c in captions]), 0.1, MANY)
    noisy = [bool(set(c.text.rstrip(".").split()) & set(UNRELATED)) for c in captions]
    assert near(np.mean(noisy), 0.4, MANY)
    assert [bool(read(c.text).unrelated) for c in captions] == noisy
    # Where nothing is to be wrong, what is said is true, whichever object is named first.
    exact = channel("alt_text", AltText(wrong=0.0, second=1.0, relation=1.0, colour=1.0, shape=1.0, size=1.0))
    for index, pair in enumerate(pairs[:200]):
        said, truth = exact(pair, "train", index).said, scenes.describe(pair.scene)
        if said["relation"] in ("below", "right of"):
            assert said["objects"] == truth["objects"][::-1]
            assert {"below": "above", "right of": "left of"}[said["relation"]] == truth["relation"]
        else:
            assert (said["objects"], said["relation"]) == (truth["objects"], truth["relation"])


def test_a_caption_is_a_function_of_its_place(pairs):
    say = channel("alt_text", RATES)
    assert say(pairs[7], "train", 7) == say(pairs[7], "train", 7)
    assert len({say(pairs[7], split, index).text for split in ("train", "val") for index in range(20)}) > 10


@pytest.mark.parametrize(
    ("text", "objects", "relation", "count", "unrelated"),
    [
        ("", [], None, None, []),
        ("A red circle.", [("circle", "red", None)], None, None, []),
        ("one large shape", [(None, None, "large")], None, 1, []),
        ("circle circle cross", [("circle", None, None), ("circle", None, None), ("cross", None, None)], None, 3, []),
        ("a red", [(None, "red", None)], None, None, []),
        ("nice cat left of a blue square", [("square", "blue", None)], None, None, ["nice", "cat"]),
        ("a cross right of a shape", [("cross", None, None), (None, None, None)], "right of", 2, []),
    ],
)
def test_other_texts_are_read_word_by_word(text, objects, relation, count, unrelated):
    found = read(text)
    assert [(o["shape"], o["colour"], o["size"]) for o in found.said["objects"]] == objects
    assert (found.said["relation"], found.said["count"], found.unrelated) == (relation, count, unrelated)


def test_a_rate_beyond_1_and_an_unknown_channel_are_refused():
    with pytest.raises(InputError, match=r"alt_text.wrong is 1.5: a rate is from 0 to 1"):
        AltText(wrong=1.5)
    with pytest.raises(InputError, match=r"captions.columns names 'long'; shapes have caption, alt_text"):
        channel("long", RATES)
