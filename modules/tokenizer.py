"""Captions to tokens: a small vocabulary of words for CLIPs trained here, open_clip's own for pretrained ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from modules.errors import InputError

VOCABULARY_FILE = "vocabulary.json"
PADDING, UNKNOWN = 0, 1


class WordTokenizer:
    """Lower-case words, parted by spaces, as tokens.

    0 is padding, 1 an unknown word, 2 and on the words, and size - 1 the end of the text: the largest, which is where
    open_clip's text tower pools.

    Args:
        words: the vocabulary.
        size: number of tokens, at least len(words) + 3.
        context_length: tokens of every caption, the end included.
    """

    def __init__(self, words: Sequence[str], size: int, context_length: int) -> None:
        if len(words) + 3 > size:
            raise InputError(
                f"the vocabulary has {len(words)} words, but text_cfg.vocab_size ({size}) leaves room for {size - 3}: "
                "raise it, or the data's min_count"
            )
        self.words, self.size, self.context_length = list(words), size, context_length
        self._token = {word: k + 2 for k, word in enumerate(words)}

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that the vocabulary does not hold."""
        return [word for word in caption.lower().split() if word not in self._token]

    def token(self, word: str) -> int:
        """A word's token.

        Raises:
            InputError: for a word that the vocabulary does not hold.
        """
        if word not in self._token:
            raise InputError(f"the vocabulary has no word {word!r}; it has {', '.join(sorted(self._token))}")
        return self._token[word]

    def __call__(self, captions: str | Sequence[str]) -> Tensor:
        """Captions -> (B, context_length) int64.

        Raises:
            InputError: for a caption longer than the context.
        """
        captions = [captions] if isinstance(captions, str) else captions
        tokens = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        for row, caption in zip(tokens, captions, strict=True):
            ids = [self._token.get(word, UNKNOWN) for word in caption.lower().split()] + [self.size - 1]
            if len(ids) > self.context_length:
                raise InputError(
                    f"the caption has {len(ids) - 1} words, the model's context holds {self.context_length - 1}: "
                    f"shorten {caption!r}"
                )
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def save(self, folder: Path) -> None:
        """Write vocabulary.json into a CLIP folder."""
        content = {"words": self.words, "size": self.size, "context_length": self.context_length}
        temporary = folder / f".{VOCABULARY_FILE}.tmp"
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(folder / VOCABULARY_FILE)

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        """Read what `save` wrote.

        Raises:
            InputError: a file that is not what `save` writes.
        """
        path = folder / VOCABULARY_FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:  # no JSON, no UTF-8; or not the keys of a vocabulary
            raise InputError(f"{path} is damaged ({error}): train or export that CLIP again") from error
