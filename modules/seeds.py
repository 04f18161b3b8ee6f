"""Where an image's noise comes from: its seed and its place, never the batch that it is drawn in."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modules.errors import InputError


def image_generators(seed: int, places: Sequence[tuple[int, int]], stage: str) -> list[torch.Generator]:
    """One CPU generator for each image, a pure function of (seed, caption's position, sample's position, stage).

    The stage is in the key and the condition is not: pictures of several conditions share the decoder's noise.
    """

    def key(place: tuple[int, int]) -> int:
        text = json.dumps([*map(operator.index, (seed, *place)), stage])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    return [torch.Generator().manual_seed(key(place)) for place in places]


def whole_seeds(seed: int | Sequence[int]) -> int | list[int]:
    """A seed, or a list of seeds, as Python's own numbers; NumPy's and PyTorch's whole numbers are seeds too.

    Raises:
        InputError: neither a whole number nor a list of at least one.
    """
    try:
        return operator.index(seed)  # type: ignore[arg-type]
    except TypeError:  # A list, or nothing that can be a seed.
        pass
    try:
        seeds = [operator.index(one) for one in seed]  # type: ignore[union-attr]
    except TypeError:
        seeds = []
    if not seeds:
        raise InputError(f"seed is a whole number, or a list of at least one, not {seed!r}")
    return seeds


@dataclass(frozen=True)
class ImageSeeds:
    """The seed and the place of each of B images.

    Attributes:
        pairs: (seed, place), as `image_generators` takes them.
    """

    pairs: tuple[tuple[int, tuple[int, int]], ...]

    @classmethod
    def of(cls, seed: int | Sequence[int], count: int) -> ImageSeeds:
        """One seed: image k is that of place k under it. A list: image k is the first one under seed k.

        So picture k of `unclip sample --seed s` is picture k here, and the seeds of single pictures can be listed.

        Raises:
            InputError: no seed, or a list of another length than `count`.
        """
        seeds = whole_seeds(seed)
        if isinstance(seeds, int):
            return cls(tuple((seeds, (k, 0)) for k in range(count)))
        if len(seeds) != count:
            raise InputError(f"{len(seeds)} seeds do not go with {count} pictures: give one seed, or one a picture")
        return cls(tuple((value, (0, 0)) for value in seeds))

    @classmethod
    def at(cls, seed: int, places: Sequence[tuple[int, int]]) -> ImageSeeds:
        """One seed of a run, and the place of each image: (caption's position, sample's position)."""
        return cls(tuple((seed, place) for place in places))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, rows: slice) -> ImageSeeds:
        return ImageSeeds(self.pairs[rows])

    def repeat(self, count: int) -> ImageSeeds:
        """Each image `count` times in a row."""
        return ImageSeeds(tuple(pair for pair in self.pairs for _ in range(count)))

    def generators(self, stage: str) -> list[torch.Generator]:
        """B fresh generators; asked again, the same noise comes out again."""
        return [image_generators(seed, [place], stage)[0] for seed, place in self.pairs]
