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

from modules.clip.lean_import import import_open_clip
from modules.errors import InputError

Reads = Literal["clip", "bpe", "characters", "gpt2"]
"""What a text encoder reads: the run's CLIP's tokens, CLIP's byte pairs, characters, or GPT-2's byte pairs (GLIDE)."""

MERGES = "caption_merges"
"""The tensor of GPT-2's byte pairs beside a network's in an export: the bytes of their file."""

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


def merges_of(merges: Tensor | None) -> bytes | None:
    """The content of the file of merges that the tensor holds."""
    return None if merges is None else merges.cpu().numpy().tobytes()


def own_tokens(
    reads: Reads, context_length: int, merges: Tensor | None, captions: Sequence[str], tokens: Tensor
) -> Tensor:
    """(B, L) tokens that a text encoder reads.

    Args:
        reads, context_length: see `tokenizer_of`.
        merges: the tensor of byte pairs, for "gpt2".
        captions: B of them.
        tokens: (B, L') the CLIP's tokens; where all are 0 there is no caption.
    """
    if reads == "clip":
        return tokens
    if merges is None and reads == "gpt2" and not any(captions):  # Of an example: shapes alone are wanted.
        return tokens.new_zeros(len(tokens), context_length)
    own = tokenizer_of(reads, context_length, merges_of(merges))[0](captions).to(tokens.device)
    return torch.where((tokens == 0).all(dim=1, keepdim=True), 0, own)


@lru_cache
def tokenizer_of(
    reads: Reads, context_length: int, merges: bytes | None = None
) -> tuple[Callable[[Sequence[str]], Tensor], int]:
    """A tokeniser by its name, and how many tokens it has.

    Args:
        reads: the name.
        context_length: tokens of a caption.
        merges: for "gpt2", the content of the file of byte pairs.

    Raises:
        InputError: "clip", which a decoder has no tokeniser of its own for; or "gpt2" without merges.
    """
    if reads == "gpt2":
        from modules.clip.byte_pairs import SOURCE, byte_pairs

        if merges is None:
            raise InputError(
                f"captions are read as GPT-2's byte pairs, and these weights came without them: put {SOURCE} beside "
                "GLIDE's files and import them again with --overwrite"
            )
        found = byte_pairs(merges, context_length)
        return found, found.vocab_size
    if reads == "characters":
        return CharacterTokenizer(context_length), CHARACTERS
    if reads == "bpe":
        from modules.clip.word_tokenizer import WholeCaptions

        clips = import_open_clip().SimpleTokenizer(context_length=context_length)
        return WholeCaptions(clips), clips.vocab_size
    raise InputError(f"reads must be clip, bpe, characters or gpt2, found {reads!r}")
