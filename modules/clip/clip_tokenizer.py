"""A CLIP's tokeniser as something that YAML can name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modules.clip.frozen import load_tokenizer
from modules.clip.word_tokenizer import WholeCaptions, WordTokenizer


class CLIPTokenizer:
    """Captions -> (B, L) int64 tokens, as a CLIP's text tower reads them; the CLIP itself is not loaded.

    Args:
        name_or_folder: an open_clip architecture ("ViT-L-14"), or the folder of a CLIP.
    """

    def __init__(self, name_or_folder: str) -> None:
        self.name_or_folder = name_or_folder
        tokenizer = load_tokenizer(name_or_folder)
        self._tokenize = tokenizer if isinstance(tokenizer, WordTokenizer) else WholeCaptions(tokenizer)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions -> (B, L); an InputError for one that does not fit."""
        return self._tokenize(list(captions))

    def cutting(self, captions: Sequence[str]) -> Tensor:
        """The same tokeniser, but it cuts captions that are too long, and says so once on stderr."""
        return self._tokenize.cutting(list(captions))
