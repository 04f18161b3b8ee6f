"""Signs: lengths alike, unseen words on no training sign, words inside of the picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import open_clip
import torch

from datamodules.limits import sign_scenes
from datamodules.limits.signs import SignsDataModule


def test_words():
    assert len(set(sign_scenes.WORDS)) == len(sign_scenes.WORDS) == 299
    assert set(map(len, sign_scenes.WORDS)) == {2, 3, 4, 5, 6}
    assert all(set(word) <= set(sign_scenes.LETTERS) for word in sign_scenes.WORDS)
    assert set(map(len, sign_scenes.UNSEEN)) == {2, 3, 4, 5, 6} and len(sign_scenes.UNSEEN) == 23 + 28
    assert set("".join(sign_scenes.UNSEEN)) <= set("".join(sign_scenes.SEEN))  # no letter is new


def test_byte_pairs_are_clips():
    """As open_clip's tokeniser parts the words behind a space; of five and six letters there are 1, 2 and 3."""
    tokenizer = open_clip.SimpleTokenizer()
    assert {word: len(tokenizer.encode(f"says {word}")) - 1 for word in sign_scenes.WORDS} == sign_scenes.BYTE_PAIRS
    numbers = Counter((len(word), count) for word, count in sign_scenes.BYTE_PAIRS.items())
    unseen = Counter((len(word), sign_scenes.BYTE_PAIRS[word]) for word in sign_scenes.UNSEEN)
    assert numbers == {(2, 1): 25, (3, 1): 40, (3, 2): 12, (4, 1): 41, (4, 2): 24,
                       (5, 1): 41, (5, 2): 24, (5, 3): 12, (6, 1): 40, (6, 2): 24, (6, 3): 16}  # fmt: skip
    assert all(unseen[key] == count / 4 for key, count in numbers.items() if key[1] > 1)


def test_splits():
    words = {
        s: [sign_scenes.make_sign(s, k).word for k in range(400)] for s in ("train", "val", "test", "unrestricted")
    }
    for split, found in words.items():
        assert np.bincount([len(word) for word in found]).tolist() == [0, 0, 80, 80, 80, 80, 80]
        unseen = np.mean([word in sign_scenes.UNSEEN for word in found])
        assert unseen == {"train": 0, "val": 0, "test": 0.5}.get(split, unseen) and (
            split != "unrestricted" or unseen > 0
        )
    assert words["train"] != words["val"]


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
    data = SignsDataModule(train_size=1, val_size=1, test_size=10, cache_dir=None)
    own, truth = data.real("test", 7, 0, 32, 0)
    other, same = data.real("test", 7, 1, 32, 3)
    word = truth["sign"]
    assert truth == same == {"sign": word, "held_out": True, "byte_pairs": sign_scenes.BYTE_PAIRS[word]}
    assert not np.array_equal(own, other)
