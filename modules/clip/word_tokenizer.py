"""Captions to tokens: a small vocabulary of words for CLIPs trained here, open_clip's own for pretrained ones."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modules.errors import InputError
from modules.untrusted.reading import read_json
from modules.untrusted.writing import clear_way

VOCABULARY_FILE = "vocabulary.json"
PADDING, UNKNOWN = 0, 1
MAX_VOCABULARY = 2**26
"""Bytes of a vocabulary.json, and tokens."""
MAX_CONTEXT = 2**16
"""Tokens of a caption."""


class WordTokenizer:
    """Lower-case words, split at spaces, as tokens.

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
                "raise it (or min_count, for data that have one)"
            )
        self.words, self.size, self.context_length = list(words), size, context_length
        self._token = {word: k + 2 for k, word in enumerate(words)}
        self._said = False

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
        tokens, long = self._tokens(captions)
        if long is not None:
            raise InputError(f"the caption has {self._excess(long)}: shorten {long!r}")
        return tokens

    def cutting(self, captions: str | Sequence[str]) -> Tensor:
        """As the call, but a long caption is cut after its first words; a line on stderr says so once."""
        tokens, long = self._tokens(captions)
        if long is not None and not self._said:
            self._said = True
            _say_cut(f"the caption {_shown(long)} has {self._excess(long)}")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The words of a caption's tokens up to its end; unknown words are left out."""
        words = []
        for token in tokens:
            if token == self.size - 1:
                break
            if 2 <= token < len(self.words) + 2:
                words.append(self.words[token - 2])
        return " ".join(words)

    def _tokens(self, captions: str | Sequence[str]) -> tuple[Tensor, str | None]:
        """The tokens, and the first caption that does not fit."""
        captions = [captions] if isinstance(captions, str) else captions
        tokens = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        room, long = self.context_length - 1, None
        for row, caption in zip(tokens, captions, strict=True):
            words = caption.lower().split()
            if len(words) > room and long is None:
                long = caption
            ids = [self._token.get(word, UNKNOWN) for word in words[:room]] + [self.size - 1]
            row[: len(ids)] = torch.tensor(ids)
        return tokens, long

    def _excess(self, caption: str) -> str:
        return f"{len(caption.split())} words, the model's context holds {self.context_length - 1}"

    @property
    def fingerprint(self) -> str:
        """Hash of which word is which token."""
        content = json.dumps([self.words, self.size, self.context_length])
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def save(self, folder: Path) -> None:
        """Write vocabulary.json into a CLIP folder."""
        content = {"words": self.words, "size": self.size, "context_length": self.context_length}
        temporary = folder / f".{VOCABULARY_FILE}.tmp"
        clear_way(temporary)
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
            content = read_json(path, MAX_VOCABULARY)
            words, size, context = (content[key] for key in ("words", "size", "context_length"))
            whole = type(size) is int and type(context) is int and 1 <= context <= MAX_CONTEXT and len(content) == 3
            if not (whole and isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise TypeError("it is not what a CLIP's export writes")
            if len(set(words)) != len(words) or size > MAX_VOCABULARY:
                raise ValueError("a word stands in it twice, or its size is absurd")
            return cls(words, size, context)
        except (ValueError, TypeError, KeyError) as error:  # no JSON, no UTF-8; or not the keys of a vocabulary
            raise InputError(f"{path} is damaged ({error}): train or export that CLIP again") from error


class WholeCaptions:
    """A tokeniser of open_clip's, which cuts long captions and says nothing; this one refuses them.

    Args:
        tokenizer: (captions, context_length=...) -> (B, context_length) int64; 0 is padding.
    """

    def __init__(self, tokenizer: Callable[..., Tensor]) -> None:
        self.tokenizer = tokenizer
        self._said = False

    def __call__(self, captions: str | Sequence[str]) -> Tensor:
        """Captions -> (B, context length) int64.

        Raises:
            InputError: for a caption longer than the context.
        """
        tokens, long = self._tokens(captions)
        if long:
            raise InputError(f"{long}: shorten it")
        return tokens

    def cutting(self, captions: str | Sequence[str]) -> Tensor:
        """As the call, but long captions are cut, as in the CLIP's own training; a line on stderr says so once."""
        tokens, long = self._tokens(captions)
        if long and not self._said:
            self._said = True
            _say_cut(long)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a caption's tokens up to its end, the largest token."""
        decoder: Callable[[list[int]], str] = getattr(self.tokenizer, "decode")  # noqa: B009 - open_clip's
        ids = [int(token) for token in tokens]
        end = getattr(self.tokenizer, "eot_token_id", None)
        if end is not None and end in ids:
            ids = ids[: ids.index(end)]
        start = getattr(self.tokenizer, "sot_token_id", None)
        return decoder([token for token in ids if token != start]).strip()

    def _tokens(self, captions: str | Sequence[str]) -> tuple[Tensor, str]:
        """The tokens, and a complaint about the first caption that does not fit ("" if all do)."""
        # Byte pair encoding takes the square of a word's letters; so long a word fills the context by itself.
        captions = [_LONG.sub(lambda found: found[0][:LONGEST_WORD], caption) for caption in as_list(captions)]
        tokens = self.tokenizer(captions)
        context = tokens.shape[1]
        for caption, row in zip(captions, tokens, strict=True):
            if row[-1] == 0:
                continue
            # Room for a token of every byte; what then lies beyond the context, and is no padding, has been cut off.
            whole = self.tokenizer([caption], context_length=context + len(caption.encode()) + 2)[0]
            if (whole[context:] != whole[-1]).any():
                count = int((whole != whole[-1]).nonzero().max()) + 1
                return tokens, f"the caption {_shown(caption)} has {count} tokens, the CLIP's context holds {context}"
        return tokens, ""


def as_list(captions: str | Sequence[str]) -> list[str]:
    """One caption or several, as a list."""
    return [captions] if isinstance(captions, str) else list(captions)


LONGEST_WORD = 2048
_LONG = re.compile(rf"\S{{{LONGEST_WORD},}}")


def _say_cut(complaint: str) -> None:
    print(f"unclip: warning: {complaint}: it is cut, and so are others like it", file=sys.stderr, flush=True)


def _shown(caption: str) -> str:
    return repr(caption if len(caption) <= 120 else f"{caption[:120]}...")
