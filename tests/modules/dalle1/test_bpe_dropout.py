"""BPE dropout: at rate 0 the tokeniser's own tokens, at rate 1 letters, between them both, and always the same text."""

from __future__ import annotations

import open_clip
import pytest
import torch

from modules.clip.bpe_dropout import BPEDropout, merged
from modules.errors import InputError

CAPTIONS = ["a small Red circle", "two cats' bicycles, sleeping!", "a circle " * 60]
RANKS = {("a", "b"): 1, ("b", "c"): 0, ("ab", "c"): 2, ("a", "bc"): 3}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_pair_of_the_lowest_rank_is_merged_first():
    assert merged("abc", RANKS, 0.0, generator()) == ["abc"]
    assert merged("abab", RANKS, 0.0, generator()) == ["ab", "ab"]
    assert merged("abcx", {("b", "c"): 0}, 0.0, generator()) == ["a", "bc", "x"]
    assert merged("aaa", {("a", "a"): 0}, 0.0, generator()) == ["aa", "a"]
    assert merged("abc", RANKS, 1.0, generator()) == ["a", "b", "c"]


def test_a_merge_is_left_out_at_the_rate():
    """Of the letters ab with one merge: it is tried once, so that it is missing at just this rate."""
    draws = generator()
    kept = sum(merged("ab", RANKS, 0.3, draws) == ["ab"] for _ in range(4000))
    assert kept / 4000 == pytest.approx(0.7, abs=0.02)


def test_without_dropout_the_tokens_are_open_clips(capsys):
    expected = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS)
    found = BPEDropout("ViT-B-32", 0.0)(CAPTIONS, generator())
    assert torch.equal(found, expected)
    assert "longer than the context: cut" in capsys.readouterr().err


def test_with_dropout_the_pieces_change_and_the_text_does_not():
    dropout = BPEDropout("ViT-B-32", 0.3)
    draws = generator()
    whole = [tuple(dropout.tokens(CAPTIONS[1], draws)) for _ in range(20)]
    assert len(set(whole)) > 10
    assert {dropout.tokenizer.decode(tokens) for tokens in whole} == {dropout.tokenizer.decode(whole[0])}
    letters = BPEDropout("ViT-B-32", 1.0).tokens("red circle", generator())
    assert len(letters) == 9
    assert torch.equal(dropout(CAPTIONS, generator()), dropout(CAPTIONS, generator()))


def test_a_rate_that_is_none_and_a_tokeniser_of_words_are_refused(clip_folder):
    with pytest.raises(InputError, match=r"bpe_dropout.rate is 1.5"):
        BPEDropout("ViT-B-32", 1.5)
    with pytest.raises(InputError, match="no merges"):
        BPEDropout(str(clip_folder))(["a"], generator())
