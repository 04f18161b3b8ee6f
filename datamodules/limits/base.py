"""The common part of the data sets of crowds and signs: splits of chosen sizes whose pairs are rendered, not read."""

from __future__ import annotations

from datamodules.base import check_split
from datamodules.rendered.pairs import PairDataModule, Records, checked_sizes


class LimitsDataModule(PairDataModule):
    """Image-text pairs that are functions of (split, index). A subclass says which.

    Args:
        image_size, batch_size, train_size, val_size, test_size, embeddings, cache_dir, seed, num_workers: as in
            `datamodules.shapes.ShapesDataModule`.

    Raises:
        InputError: as there.
    """

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 64,
        train_size: int = 40_000,
        val_size: int = 2_048,
        test_size: int = 2_048,
        embeddings: str | None = None,
        cache_dir: str | None = "runs/cache",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, embeddings, cache_dir, seed, num_workers)
        self.sizes = checked_sizes(train_size, val_size, test_size)
        self._records: dict[str, Records] = {}

    def size(self, split: str) -> int:
        return self.sizes[check_split(split)]
