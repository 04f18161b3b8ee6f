"""Signs: lengths alike, unseen words on no training sign, words inside of the picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import open_clip
import pytest
import torch

from datamodules.limits import sign_scenes
from datamodules.limits.signs import SignsDataModule
from modules.errors import InputError


def test_words():
    assert len(set(sign_scenes.WORDS)) == len(sign_scenes.WORDS) == 299
    assert set(map(len, sign_scenes.WORDS)) == {2, 3, 4, 5, 6}
    assert all(set(word) <= set(sign_scenes.LETTERS) for word in sign_scenes.WORDS)
    assert set(map(len, sign_scenes.UNSEEN)) == {2, 3, 4, 5, 6} and len(sign_scenes.UNSEEN) == 22 + 28
    assert set("".join(sign_scenes.UNSEEN)) <= set("".join(sign_scenes.SEEN))  # no letter is new


def test_byte_pairs_are_clips():
    """As open_clip's tokeniser parts the words behind a space; of five and six letters there are 1, 2 and 3."""
    tokenizer = open_clip.SimpleTokenizer()
    found = {word: tokenizer.encode(f"says {word}")[1:] for word in sign_scenes.WORDS}
    assert {word: len(tokens) for word, tokens in found.items()} == sign_scenes.BYTE_PAIRS
    for word, parts in sign_scenes.PARTED.items():
        assert tuple(tokenizer.decoder[token].removesuffix("</w>") for token in found[word]) == parts
    numbers = Counter((len(word), count) for word, count in sign_scenes.BYTE_PAIRS.items())
    unseen = Counter((len(word), sign_scenes.BYTE_PAIRS[word]) for word in sign_scenes.UNSEEN)
    assert numbers == {(2, 1): 25, (3, 1): 40, (3, 2): 12, (4, 1): 41, (4, 2): 24,
                       (5, 1): 41, (5, 2): 24, (5, 3): 12, (6, 1): 40, (6, 2): 24, (6, 3): 16}  # fmt: skip
    assert all(unseen[key] == count / 4 for key, count in numbers.items() if key[1] > 1)


def test_training_shows_all_tokens_of_rare_words_that_it_never_shows_and_none_of_common_ones():
    """So who reads byte pairs has met the pieces of the former, and nothing of the latter."""
    tokenizer = open_clip.SimpleTokenizer()
    signs = (sign_scenes.make_sign("train", k, made_up=0.5) for k in range(20_000))
    met = Counter(token for sign in signs for token in tokenizer.encode(f"says {sign.word}")[1:])
    for word in sign_scenes.UNSEEN:
        times = [met[token] for token in tokenizer.encode(f"says {word}")[1:]]
        if word in sign_scenes.PARTED:
            assert min(times) >= 5, (word, times)
        else:
            assert times == [0], (word, times)


def test_splits():
    signs = {
        s: [sign_scenes.make_sign(s, k).word for k in range(500)] for s in ("train", "val", "test", "unrestricted")
    }
    for split, found in signs.items():
        assert np.bincount([len(word) for word in found]).tolist() == [0, 0, 100, 100, 100, 100, 100]
        kinds = Counter(sign_scenes.SHOWN.get(word, sign_scenes.MADE_UP) for word in found)
        if split == "test":
            assert kinds == dict.fromkeys(sign_scenes.KINDS, 100)
        elif split == "unrestricted":
            assert kinds[sign_scenes.NEVER] > 50 and not kinds[sign_scenes.MADE_UP]
        else:
            assert not kinds[sign_scenes.NEVER] and not kinds[sign_scenes.MADE_UP]
    assert signs["train"] != signs["val"]


def test_words_are_shown_as_often_as_said():
    found = Counter(sign_scenes.make_sign("train", k).word for k in range(30_000))
    kinds = Counter(sign_scenes.SHOWN[word] for word in found.elements())
    words = Counter(sign_scenes.SHOWN[word] for word in sign_scenes.SEEN)
    assert max(words.values()) - min(words.values()) <= 5
    each = {kind: kinds[kind] / words[kind] for kind in sign_scenes.FREQUENCIES}
    assert each["sometimes"] / each["often"] == pytest.approx(1 / 8, rel=0.1)
    assert each["rarely"] / each["often"] == pytest.approx(1 / 64, rel=0.3)


def test_made_up_words_of_the_test_split_are_on_no_other_sign():
    made = {}
    for split, share in (("train", 0.5), ("unrestricted", 0.75), ("test", 0.0)):
        words = [sign_scenes.make_sign(split, k, share).word for k in range(4_000)]
        made[split] = {word for word in words if word not in sign_scenes.SHOWN}
        shown = np.mean([word in made[split] for word in words])
        assert shown == pytest.approx(share or 0.2, abs=0.03)
    assert not made["test"] & (made["train"] | made["unrestricted"])
    assert made["train"] & made["unrestricted"]


def test_a_share_that_is_none():
    with pytest.raises(InputError, match=r"made_up: 1\.5 is no share"):
        SignsDataModule(made_up=1.5)


def test_attributes_spell_the_word():
    data = SignsDataModule(train_size=20, val_size=5, test_size=20, cache_dir=None)
    batch = data.dataset("train").__getitems__(range(20))
    for caption, row in zip(batch.captions, batch.attributes.tolist(), strict=True):
        spelled = "".join(names[k] for names, k in zip(data.attributes.values(), row, strict=True)).replace("-", "")
        assert caption == f"a sign that says {spelled}"
    assert len(data.vocabulary()) == 303  # 299 words, and "a sign that says"
    assert batch.images.shape == (20, 3, 32, 32) and batch.images.dtype == torch.float32


def test_words_stay_inside_and_can_be_told_from_the_board():
    for index in range(40):
        sign = sign_scenes.make_sign("train", index)
        picture = sign_scenes.render(sign, 32).astype(int)
        inked = np.abs(picture - np.array(sign.board)).sum(2) > 120
        assert 20 < inked.sum() < 500, sign
        assert not inked[0].any() and not inked[-1].any() and not inked[:, 0].any() and not inked[:, -1].any(), sign


def test_another_sign_with_the_same_word():
    data = SignsDataModule(train_size=1, val_size=1, test_size=25, cache_dir=None)
    own, truth = data.real("test", 17, 0, 32, 0)
    other, same = data.real("test", 17, 1, 32, 3)
    word = truth["sign"]
    pairs = {"byte_pairs": sign_scenes.BYTE_PAIRS[word]}
    assert truth == same == {"sign": word, "held_out": True, "shown": "never", **pairs}
    assert not np.array_equal(own, other)
    made = data.real("test", 22, 0, 32, 0)[1]
    assert made == {"sign": made["sign"], "held_out": True, "shown": "made up"}
    assert data.real("test", 2, 0, 32, 0)[1]["shown"] == "often"


def test_a_made_up_word_of_the_validation_signs_is_not_held_out():
    data = SignsDataModule(val_size=40, cache_dir=None, made_up=1.0)
    truths = [data.real("val", k, 0, 16, 0)[1] for k in range(40)]
    assert {(truth["shown"], truth["held_out"]) for truth in truths} == {("made up", False)}


def test_made_up_words_are_other_data():
    keys = [SignsDataModule(cache_dir=None, made_up=share).source_key("train") for share in (0.0, 0.5)]
    assert keys[0] != keys[1]
