"""Tokenisers that a decoder may have of its own, beside that of the CLIP: byte pairs, or single characters.

The paper suspects that byte pairs hide the spelling of words from the decoder, and that text in pictures is wrong for
that (section 7, figure 16). Characters hide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from modules.errors import InputError

Reads = Literal["clip", "bpe", "characters"]
"""What a decoder's text encoder reads: the tokens of the run's CLIP, CLIP's byte pairs, or characters."""

FIRST, LAST = 32, 126
"""The printable characters of ASCII, which have a token each."""
OTHER = LAST - FIRST + 2
END = OTHER + 1
CHARACTERS = END + 1
"""How many tokens there are: padding (0), the characters, one for all others, and the end."""


class CharacterTokenizer:
    """Lower-case characters as tokens, then the end; 0 is padding.

    Args:
        context_length: tokens of every caption, the end included.
    """

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> (B, context_length) int64.

        Raises:
            InputError: for a caption longer than the context.
        """
        tokens = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        for row, caption in zip(tokens, captions, strict=True):
            if len(caption) >= self.context_length:
                raise InputError(
                    f"the caption has {len(caption)} characters, model.network.context_length holds "
                    f"{self.context_length - 1}: raise it, or shorten {caption[:100]!r}"
                )
            own = [ord(c) - FIRST + 1 if FIRST <= ord(c) <= LAST else OTHER for c in caption.lower()]
            row[: len(own) + 1] = torch.tensor([*own, END])
        return tokens


@lru_cache
def tokenizer_of(reads: Reads, context_length: int) -> tuple[Callable[[Sequence[str]], Tensor], int]:
    """A tokeniser by its name, and how many tokens it has.

    Raises:
        InputError: "clip", which a decoder has no tokeniser of its own for.
    """
    if reads == "characters":
        return CharacterTokenizer(context_length), CHARACTERS
    if reads == "bpe":
        import open_clip

        from modules.clip.word_tokenizer import WholeCaptions

        byte_pairs = open_clip.SimpleTokenizer(context_length=context_length)
        return WholeCaptions(byte_pairs), byte_pairs.vocab_size
    raise InputError(f"reads must be clip, bpe or characters, found {reads!r}")
