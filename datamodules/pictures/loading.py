"""Loaders whose batches list the pairs that could not be read, so that the process that trains can count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from datamodules.faults import Fault
from datamodules.order import ResumableLoader
from datamodules.pictures.sources import PictureDataset
from datamodules.transforms import normalised
from modules.batches import ImageTextBatch


class Delivered(Dataset[Any]):
    """A dataset whose batches come with what was wrong, so that the training process counts it, not a loader's.

    Args:
        dataset: the pairs.
        as_bytes: leave the images uint8, for the DataModule to convert on the device.
    """

    def __init__(self, dataset: PictureDataset, as_bytes: bool) -> None:
        self.dataset, self.as_bytes = dataset, as_bytes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> tuple[ImageTextBatch | None, list[Fault]]:
        return self.dataset.load(indices)

    def receive(self, loaded: tuple[ImageTextBatch | None, list[Fault]]) -> ImageTextBatch:
        """In the training process: the batch, its faults counted."""
        batch = self.dataset.receive(*loaded)
        return batch if self.as_bytes else batch._replace(images=normalised(batch.images))


class _Counting:
    def __iter__(self) -> Iterator[ImageTextBatch]:
        for loaded in super().__iter__():  # type: ignore[misc]
            yield self.dataset.receive(loaded)  # type: ignore[attr-defined]


class CountingLoader(_Counting, DataLoader[Any]):  # type: ignore[misc]
    """A loader that hands what was wrong with its batches to the fault log."""


class TrainingLoader(_Counting, ResumableLoader):  # type: ignore[misc]
    """A loader in the training order."""
