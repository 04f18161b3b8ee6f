"""GPT-2's byte pair encoding, by which GLIDE reads captions; its merges are those of OpenAI's vocab.bpe."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from modules.clip.lean_import import import_open_clip
from modules.errors import InputError
from modules.untrusted.reading import printable, read_bytes

FILES = ("vocab.bpe", "vocab.bpe.gz", "merges.txt")
"""What the file of merges is called: by OpenAI, in GLIDE's code, by transformers."""

SOURCE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
MAX_FILE = 2**23
"""Bytes of such a file; GPT-2's has 456 kB."""

WORD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What is merged within: a word, a number or other signs, each with the space before it (GPT-2)."""


class BytePairs:
    """Lower-case captions as GPT-2's tokens, each one higher, so that 0 is padding; there is no start and no end.

    Args:
        merges: content of the file: a line of version, and two pieces a line, what is merged first before what follows.
        context_length: tokens of every caption.

    Raises:
        InputError: it is no such file.
    """

    def __init__(self, merges: bytes, context_length: int) -> None:
        import_open_clip()
        import regex
        from open_clip.tokenizer import bytes_to_unicode

        self.context_length = context_length
        self._letters: dict[int, str] = bytes_to_unicode()
        pairs = parsed(merges)
        self._rank = {pair: k for k, pair in enumerate(pairs)}
        pieces = [*self._letters.values(), *("".join(pair) for pair in pairs)]
        self._token = {piece: k + 1 for k, piece in enumerate(pieces)}
        self.vocab_size = 2 + len(pieces)  # Padding, and GPT-2's last token, the end of a text, which no caption has.
        self._words = regex.compile(WORD)
        self._known: dict[str, list[int]] = {}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> (B, context_length) int64.

        Raises:
            InputError: for a caption longer than the context.
        """
        tokens = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        for row, caption in zip(tokens, captions, strict=True):
            own = [token for word in self._words.findall(caption.lower()) for token in self._of_word(word)]
            if len(own) > self.context_length:
                raise InputError(
                    f"the caption has {len(own)} tokens, {self.context_length} are read: shorten {caption[:100]!r}"
                )
            row[: len(own)] = torch.tensor(own, dtype=torch.int64)
        return tokens

    def _of_word(self, word: str) -> list[int]:
        if word not in self._known:
            pieces = [self._letters[byte] for byte in word.encode("utf-8")]
            while len(pieces) > 1:
                first = min(pairwise(pieces), key=lambda pair: self._rank.get(pair, len(self._rank)))
                if first not in self._rank:
                    break
                pieces = _merged(pieces, first)
            self._known[word] = [self._token[piece] for piece in pieces]
        return self._known[word]


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with this pair as one, wherever it occurs."""
    found: list[str] = []
    k = 0
    while k < len(pieces):
        joins = tuple(pieces[k : k + 2]) == pair
        found.append("".join(pair) if joins else pieces[k])
        k += 2 if joins else 1
    return found


def parsed(merges: bytes) -> list[tuple[str, str]]:
    """The pairs of a file of merges.

    Raises:
        InputError: it is none.
    """
    try:
        lines = merges.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"the byte pairs are no text in UTF-8 ({error.reason}): take {SOURCE}") from error
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None or not rows:
        told = printable(" ".join(wrong)[:60]) if wrong else "nothing"
        raise InputError(f"the byte pairs have two pieces a line, found {told!r}: take {SOURCE}")
    return [(row[0], row[1]) for row in rows]


def find_merges(folder: Path) -> bytes | None:
    """The content of a file of merges in a folder, unpacked; None if there is none.

    Raises:
        InputError: it is none, or too large.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    content = read_bytes(path, MAX_FILE)
    if path.suffix == ".gz":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(MAX_FILE + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} cannot be unpacked ({printable(str(error))}): take {SOURCE}") from error
    if len(content) > MAX_FILE:
        raise InputError(f"{path} has over {MAX_FILE:,} bytes, more than byte pairs have: take {SOURCE}")
    try:
        parsed(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return content


@lru_cache(maxsize=4)
def byte_pairs(merges: bytes, context_length: int) -> BytePairs:
    """A tokeniser; the same one for the same merges."""
    return BytePairs(merges, context_length)
