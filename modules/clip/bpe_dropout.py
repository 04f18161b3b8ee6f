"""BPE dropout: a caption's subwords drawn anew in every training step (Provilkov et al. 1910.13267; DALL-E 1, 2.2)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from modules.clip.frozen import load_tokenizer
from modules.errors import InputError


class BPEDropout:
    """Captions -> (B, L) tokens of a CLIP's byte pair encoding, each possible merge left out at some rate.

    Args:
        name_or_folder: an open_clip architecture ("ViT-L-14"), or the folder of a CLIP whose tokeniser is a BPE.
        rate: how often a merge is left out, 0 to 1; the paper's is 0.1. With 0 the tokens are the tokeniser's own.

    Raises:
        InputError: a rate that is no share, or a tokeniser without merges.
    """

    def __init__(self, name_or_folder: str, rate: float = 0.1) -> None:
        if not 0 <= rate <= 1:
            raise InputError(f"bpe_dropout.rate is {rate:g}: it is a share, from 0 to 1")
        self.name_or_folder, self.rate = name_or_folder, rate
        self._said = False

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's SimpleTokenizer."""
        found = load_tokenizer(self.name_or_folder)
        if not hasattr(found, "bpe_ranks"):
            raise InputError(
                f"bpe_dropout: the tokeniser of {self.name_or_folder} has no merges that could be left out (it reads "
                "whole words): leave bpe_dropout out, or name a CLIP with a BPE"
            )
        return found

    def __call__(self, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """(B, L) int64; what does not fit is cut before the end of text."""
        length = self.tokenizer.context_length
        rows = torch.zeros(len(captions), length, dtype=torch.int64)
        for row, caption in zip(rows, captions, strict=True):
            tokens = [self.tokenizer.sot_token_id, *self.tokens(caption, generator)]
            self._say_cut(caption, len(tokens) + 1 > length)
            kept = [*tokens[: length - 1], self.tokenizer.eot_token_id]
            row[: len(kept)] = torch.tensor(kept)
        return rows

    def tokens(self, caption: str, generator: torch.Generator) -> list[int]:
        """The tokens of a caption, without start and end."""
        own, found = self.tokenizer, []
        for word in own.pat.findall(own.clean_fn(caption)):
            letters = "".join(own.byte_encoder[byte] for byte in word.encode("utf-8"))
            pieces = merged([*letters[:-1], letters[-1] + "</w>"], own.bpe_ranks, self.rate, generator)
            found += [own.encoder[piece] for piece in pieces]
        return found

    def _say_cut(self, caption: str, cut: bool) -> None:
        if cut and not self._said:
            self._said = True
            print(f"with BPE dropout the caption {caption[:60]!r} is longer than the context: cut", file=sys.stderr)


def merged(
    pieces: Sequence[str], ranks: Mapping[tuple[str, str], int], rate: float, generator: torch.Generator
) -> list[str]:
    """Byte pair encoding of a word: again and again the pair of the lowest rank is merged, wherever it stands.

    Before each merge every possible one is left out at the rate `rate`; when none is left, the word is done.

    Args:
        pieces: the word's letters.
        ranks: for each pair that may be merged, its rank.
        rate: 0 is the plain encoding, 1 leaves the letters.
        generator: asked for a number for each possible merge; not at rate 0.
    """
    word = list(pieces)
    while len(word) > 1:
        places = [k for k in range(len(word) - 1) if (word[k], word[k + 1]) in ranks]
        if rate and places:
            kept = torch.rand(len(places), generator=generator) >= rate
            places = [place for place, keep in zip(places, kept.tolist(), strict=True) if keep]
        if not places:
            break
        best = min(ranks[word[k], word[k + 1]] for k in places)
        chosen = [k for k in places if ranks[word[k], word[k + 1]] == best]
        word = _joined(word, chosen)
    return word


def _joined(word: list[str], places: Sequence[int]) -> list[str]:
    """The word with the pairs that begin at these places (ascending) merged; overlapping ones from the left."""
    found: list[str] = []
    k, wanted = 0, set(places)
    while k < len(word):
        both = k in wanted
        found.append(word[k] + word[k + 1] if both else word[k])
        k += 2 if both else 1
    return found
