"""Signs with words as a data set (`datamodules.limits.sign_scenes`), for the paper's figure 16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from datamodules.base import check_split
from datamodules.limits import sign_scenes
from datamodules.limits.base import LimitsDataModule
from datamodules.rendered.cache import source_hash
from datamodules.rendered.pairs import Records
from modules.errors import InputError


class SignsDataModule(LimitsDataModule):
    """Image-text pairs of signs, with the letters of every picture.

    Args:
        image_size, batch_size, train_size, val_size, test_size, embeddings, cache_dir, seed, num_workers: see
            LimitsDataModule.
        train_split: "train", or "unrestricted" to train on all words, for a reader, which judges pictures and takes no
            part in making them.
        made_up: share of the training and validation signs that show made-up words, 0 to 1.

    Raises:
        InputError: as there; `made_up` is outside 0 to 1.
    """

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 64,
        train_size: int = 40_000,
        val_size: int = 2_000,
        test_size: int = 2_000,
        embeddings: str | None = None,
        cache_dir: str | None = "runs/cache",
        seed: int = 0,
        num_workers: int = 0,
        train_split: Literal["train", "unrestricted"] = "train",
        made_up: float = 0.0,
    ) -> None:
        if not 0 <= made_up <= 1:
            raise InputError(f"made_up: {made_up} is no share from 0 to 1")
        sizes = train_size, val_size, test_size
        super().__init__(image_size, batch_size, *sizes, embeddings, cache_dir, seed, num_workers)
        self._sources = {"train": train_split, "val": "val", "test": "test"}
        self._made_up = made_up

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        return sign_scenes.ATTRIBUTES

    def vocabulary(self, min_count: int = 1) -> list[str]:
        """The words of all captions, those among them that stand on no training sign: a CLIP has a token for each."""
        return sorted({*sign_scenes.WORDS, *sign_scenes.caption_of("").split()})

    def records(self, split: str) -> Records:
        if check_split(split) not in self._records:
            words = [self._sign(split, k).word for k in range(self.sizes[split])]
            captions = [sign_scenes.caption_of(word) for word in words]
            self._records[split] = Records(captions, np.stack([sign_scenes.attributes(word) for word in words]))
        return self._records[split]

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        return partial(_render, self._sources[check_split(split)], self._made_up, size)

    def source_key(self, split: str) -> list[str]:
        words = ",".join([*sign_scenes.WHOLE, *("+".join(parts) for parts in sign_scenes.PARTED.values())])
        return ["signs", self._sources[check_split(split)], source_hash(sign_scenes), words, str(self._made_up)]

    def _sign(self, split: str, index: int) -> sign_scenes.Sign:
        return sign_scenes.make_sign(self._sources[check_split(split)], index, self._made_up)

    def real(self, split: str, index: int, sample: int, size: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """As in the base class; sample k > 0 is another sign with the same word, drawn from `seed`.

        The truth is {"sign": the word, "held_out": whether no training sign shows it, "shown": how often training does,
        a name of `sign_scenes.KINDS`, "byte_pairs": how many tokens of CLIP's byte pair encoding it is; not for a
        made-up word}.
        """
        own = self._sign(split, index)
        sign = sign_scenes.sign_for(own.word, seed) if sample else own
        shown = sign_scenes.SHOWN.get(own.word, sign_scenes.MADE_UP)
        truth = {"sign": own.word, "held_out": sign_scenes.is_held_out(own.word), "shown": shown}
        if own.word in sign_scenes.BYTE_PAIRS:
            truth["byte_pairs"] = sign_scenes.BYTE_PAIRS[own.word]
        return sign_scenes.render(sign, size), truth


def _render(split: str, made_up: float, size: int, index: int) -> np.ndarray:
    return sign_scenes.render(sign_scenes.make_sign(split, index, made_up), size)
