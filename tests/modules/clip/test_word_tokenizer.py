"""WordTokenizer: words to tokens, the end of the text largest, and what does not fit is refused."""

from __future__ import annotations

import json

import pytest
import torch

from modules.clip.word_tokenizer import WordTokenizer
from modules.errors import InputError


@pytest.fixture
def tokenize():
    return WordTokenizer(["a", "big", "circle"], size=8, context_length=5)


def test_words_padding_unknown_words_and_the_end(tokenize):
    """0 padding, 1 unknown, words from 2, and the largest token ends the text, where open_clip's text tower looks."""
    tokens = tokenize(["a big circle", "A  Blue CIRCLE ", "", "a a a a"])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[2, 3, 4, 7, 0], [2, 1, 4, 7, 0], [7, 0, 0, 0, 0], [2, 2, 2, 2, 7]]
    assert (tokens.argmax(dim=1) == torch.tensor([3, 3, 0, 4])).all()


def test_case_and_spaces_change_no_token_and_a_full_stop_does(tokenize):
    """Of the changes of form that DALL-E 3 speaks of (section 3.1), two cannot change a picture here."""
    plain = tokenize("a red circle")
    for other in (" a red circle", "A RED CIRCLE", "A red circle", "a  red circle "):
        assert torch.equal(tokenize(other), plain)
    assert not torch.equal(tokenize("a red circle."), plain)


def test_one_caption(tokenize):
    assert tokenize("a circle").tolist() == [[2, 4, 7, 0, 0]]


def test_unknown_words(tokenize):
    assert tokenize.unknown("A blue circle, big") == ["blue", "circle,"]


def test_a_caption_that_is_too_long(tokenize):
    with pytest.raises(InputError, match=r"has 5 words, the model's context holds 4: shorten 'a a a a a'") as error:
        tokenize(["a", "a a a a a"])
    assert "\n" not in str(error.value)


def test_a_caption_that_is_too_long_can_be_cut_and_it_is_said_once(tokenize, capsys):
    for _ in range(2):
        assert tokenize.cutting(["a", "big blue a circle small a"]).tolist() == [[2, 7, 0, 0, 0], [3, 1, 2, 4, 7]]
    said = capsys.readouterr().err
    assert "'big blue a circle small a' has 6 words, the model's context holds 4: it is cut" in said
    assert said.count("\n") == 1
    assert torch.equal(tokenize.cutting("a a a a"), tokenize("a a a a"))
    assert capsys.readouterr().err == ""


def test_a_vocabulary_that_is_too_large():
    WordTokenizer(list("abc"), 6, 4)
    with pytest.raises(InputError, match=r"has 4 words, but text_cfg.vocab_size \(6\) leaves room for 3"):
        WordTokenizer(list("abcd"), 6, 4)


def test_it_is_stored(tokenize, tmp_path):
    tokenize.save(tmp_path)
    again = WordTokenizer.load(tmp_path)
    captions = ["a big circle", "small a"]
    assert torch.equal(again(captions), tokenize(captions))
    assert (again.words, again.size, again.context_length) == (tokenize.words, 8, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"words": []}', b"\xff\xfe\x00"])
def test_a_damaged_vocabulary(tokenize, tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"vocabulary\.json is damaged") as error:
        WordTokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_words_of_any_script(tmp_path):
    WordTokenizer(["großer", "円"], 5, 4).save(tmp_path)
    assert json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))["words"] == ["großer", "円"]
    assert WordTokenizer.load(tmp_path)(["円 GROSSER Großer"]).tolist() == [[3, 1, 2, 4]]
