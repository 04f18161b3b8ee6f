"""A decoder's own tokenisers: characters as they are written, and CLIP's byte pairs."""

from __future__ import annotations

import pytest

from modules.clip.caption_tokens import CHARACTERS, CharacterTokenizer, tokenizer_of
from modules.errors import InputError


def test_characters():
    (row,) = CharacterTokenizer(8)(["Ab é~"]).tolist()
    assert row == [ord("a") - 31, ord("b") - 31, 1, 96, 95, 97, 0, 0] and CHARACTERS == 98
    assert CharacterTokenizer(3)([""]).tolist() == [[97, 0, 0]]
    with pytest.raises(InputError, match=r"has 8 characters, model.network.context_length holds 7: raise it"):
        CharacterTokenizer(8)(["too long"])


def test_byte_pairs_are_clips():
    tokenizer, size = tokenizer_of("bpe", 16)
    start, end = size - 2, size - 1
    (row,) = tokenizer(["a sign that says window"]).tolist()
    assert size == 49408 and row[0] == start and row[6] == end and row[7:] == [0] * 9  # a common word is one token
    assert tokenizer_of("characters", 9)[1] == 98
    with pytest.raises(InputError, match="reads must be clip, bpe, characters or gpt2, found 'clip'"):
        tokenizer_of("clip", 9)
