"""The DataModule of picture files: splits, loaders that count faults, and pixels that travel as bytes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from datamodules.base import SPLITS, at_least, check_split
from datamodules.captioned.folder import added_columns
from datamodules.captions import CaptionConfig
from datamodules.embeddings.folder import EmbeddingRows, open_embeddings
from datamodules.fault_counting import FaultCounting
from datamodules.faults import Fault, FaultPolicy
from datamodules.order import ResumableLoader, SeededBatchSampler, evaluation_batches
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.loading import CountingLoader, Delivered, TrainingLoader
from datamodules.pictures.sources import (
    Pairs,
    PairTable,
    PictureDataset,
    Reader,
    choose_split,
    renderer,
    sample,
)
from datamodules.rendered.cache import RenderedOnDemand, digest
from datamodules.rendered.pairs import PairDataModule, Records
from datamodules.transforms import normalised
from modules.batches import ImageTextBatch
from modules.errors import InputError

USUAL_SHARE = 0.01
NAMED = 3
"""Faults that the line about data without a usable pair names."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitConfig:
    """How large the splits are, and which share is held out if validation or test have no data of their own.

    Attributes:
        val_share: share of the training source that is held out for validation, if validation has no source of its own.
            The hash of a pair's key decides, so a pair never changes sides when others are added. If validation and
            test have one source together, it is divided by the ratio of the two shares. Null is 0.01, or more if
            `val_size` needs more (then pairs go back to training when others are added).
        test_share: the same for the test.
        train_size: at most this number of training pairs, a fair sample; null for all.
        val_size: number of validation pairs, or fewer if `val_share` or the source has fewer; null for all.
        test_size: number of test pairs, in the same way.

    Raises:
        InputError: a share outside 0 to 1, both together 1 or more, a size below 1.
    """

    val_share: float | None = None
    test_share: float | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("val_share", "test_share"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise InputError(f"splits.{name} must be in 0 to 1, got {share}")
        if self.share("val") + self.share("test") >= 1:
            raise InputError("splits.val_share and splits.test_share leave nothing to train on")
        for split in SPLITS:
            size = self.size(split)
            at_least(1, f"splits.{split}_size", 1 if size is None else size)

    def size(self, split: str) -> int | None:
        """The bound of a split."""
        return getattr(self, f"{split}_size")

    def share(self, split: str) -> float:
        """The share that is held out for validation or test."""
        share = getattr(self, f"{split}_share")
        return USUAL_SHARE if share is None else share

    def least(self, split: str) -> int:
        """How many pairs are held out at least, while there are enough."""
        return 0 if getattr(self, f"{split}_share") is not None else self.size(split) or 0


class NoPairs(InputError):
    """A split has no pairs.

    Attributes:
        faults: what is wrong with the pairs of its source.
    """

    def __init__(self, message: str, faults: Sequence[Fault]) -> None:
        super().__init__(message)
        self.faults = faults


class Listed(NamedTuple):
    """The pairs of a source.

    Attributes:
        table: the pairs that can be used, as far as that can be told without decoding.
        faults: what was wrong with the others.
        reader: reads the picture of any of these pairs.
        unused: extension, as "mask.png" -> how many pictures with it belong to another picture, and are not trained on.
    """

    table: PairTable
    faults: list[Fault]
    reader: Reader
    unused: Mapping[str, int] = {}


class PictureDataModule(FaultCounting, PairDataModule):
    """Base of the DataModules that read picture files.

    Args:
        sources: split -> what the subclass's `list_pairs` lists it from; None holds it out of the training source.
        image_size: side of the images in pixels.
        batch_size: pairs a batch and process, in training and in evaluation.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: folder for results that are computed once (lists of shards); None keeps nothing.
        seed: seed of the training order, and of the captions, crops and flips in every pass.
        num_workers: loader processes.
        captions: where the captions are, and which of several is shown.
        picture: crop, flip, decoding.
        splits: sizes and shares.
        faults: what happens with pairs that cannot be used.
    """

    def __init__(
        self,
        sources: dict[str, str | None],
        image_size: int,
        batch_size: int,
        embeddings: str | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        captions: CaptionConfig = CaptionConfig(),
        picture: PictureConfig = PictureConfig(),
        splits: SplitConfig = SplitConfig(),
        faults: FaultPolicy = FaultPolicy(),
    ) -> None:
        super().__init__(image_size, batch_size, embeddings, cache_dir, seed, num_workers)
        self.sources = {split: source or sources["train"] for split, source in sources.items()}
        self.splits = splits
        self.caption_config, self.picture, self.faults = captions, picture, faults
        self._listed: dict[str, Listed] = {}
        self._pairs: dict[str, Pairs] = {}
        self._opened: dict[str, PictureDataset] = {}

    def list_pairs(self, source: str) -> Listed:
        """Everything that a source holds.

        Raises:
            InputError: there is no such source, or it is not of this format.
        """
        raise NotImplementedError

    def pairs(self, split: str) -> Pairs:
        """The split's pairs, listed when first asked for; what cannot be used is counted in `log(split)`."""
        if check_split(split) not in self._pairs:
            source, log = self.sources[split], self.log(split)
            assert source is not None
            counted = source in self._listed  # By the first split of a source that several share.
            if not counted:
                self._listed[source] = self.list_pairs(source)
            listed = self._listed[source]
            log.pairs = len(listed.table.captions) + len(listed.faults)
            if not counted:
                self._tell(split, source, listed)
            rows = self._rows_of(split, source, listed)
            log.read(len(rows))
            self._pairs[split] = self._with_added(split, Pairs(listed.table, rows, self.caption_config, listed.reader))
        return self._pairs[split]

    def _with_added(self, split: str, pairs: Pairs) -> Pairs:
        """The pairs with the captions that `captions.added` names."""
        if self.caption_config.added:
            hashed = _hash_of_keys(pairs.keys)
            pairs.add_captions(added_columns(self.caption_config.added, split, len(pairs), hashed), self.caption_config)
        return pairs

    def pictures_hash(self, split: str) -> str:
        return _hash_of_keys(self.pairs(split).keys)

    def _tell(self, split: str, source: str, listed: Listed) -> None:
        """Count the faults of a source, and name the pictures in it that are not trained on."""
        for fault in listed.faults:
            self.log(split).add(fault)
        if listed.unused and not self.log(split).quiet:
            _logger.warning("%s: not used: %s", source, unused_words(listed.unused))

    def _rows_of(self, split: str, source: str, listed: Listed) -> np.ndarray:
        """The split's rows of what its source holds."""
        held_out, size = self._held_out(split), self.splits.size(split)
        least = {name: self.splits.least(name) for name in held_out}
        part = choose_split(listed.table.keys, split, held_out, least)
        if not len(part):
            raise NoPairs(self._no_pairs(split, source, listed), listed.faults)
        if size is not None and len(part) < size:
            _logger.warning("%s: splits.%s_size asks for %d pairs, there are %d", source, split, size, len(part))
        return sample(listed.table.keys, part, size)

    def _no_pairs(self, split: str, source: str, listed: Listed) -> str:
        count = len(listed.table.captions)
        named = "; ".join(map(str, listed.faults[:NAMED]))
        several = f"{len(listed.faults)} faults, the first: " if len(listed.faults) > 1 else ""
        wrong = f"; {several}{named}" if listed.faults else ""
        if not count:
            return f"{source}: no pair of it can be used{wrong}"
        if split == "train":
            way = (
                "name a source of its own for val and test, lower splits.val_share and splits.test_share, or add pairs"
            )
            return f"{source}: its {count} pairs leave none to train on beside validation and test: {way}{wrong}"
        way = f"name a source for {split}, or raise splits.{split}_share or splits.{split}_size"
        return f"{source}: no pairs for the {split} split (it has {count}): {way}{wrong}"

    def dataset(self, split: str) -> PictureDataset:  # type: ignore[override]
        if split not in self._opened:
            pairs, rows = self.pairs(split), None
            if self.embeddings is not None:
                rows = self._rows(split, pairs)
            self._opened[split] = PictureDataset(pairs, self.image_size, self.picture, self.seed, rows, self.log(split))
        return self._opened[split]

    def _rows(self, split: str, pairs: Pairs) -> EmbeddingRows:
        assert self.embeddings is not None
        if split == "train" and pairs.captions.several:
            raise InputError(
                "embeddings hold one caption a pair, these data several: set captions.draw: false to train on the first"
            )
        if split == "train" and self.picture.varies:
            raise InputError(
                "embeddings are of the pictures' centres: set picture.crop: centre and picture.flip: false"
            )
        folder = open_embeddings(self.embeddings)
        return folder.rows(split, len(pairs), self.data_hash(split), self.token_features)

    def records(self, split: str) -> Records:
        return Records(self.captions(split), None)

    def size(self, split: str) -> int:
        return len(self.pairs(split))

    def captions(self, split: str) -> list[str]:
        """The caption of each pair outside training, by index."""
        return self.pairs(split).captions.all_first()

    def texts(self, split: str) -> Sequence[str]:
        return self.pairs(split).captions.texts

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        return renderer(self.dataset(split), size)

    def images(self, split: str, size: int) -> RenderedOnDemand:
        return RenderedOnDemand(self.size(split), self.renderer(split, size))

    def source_key(self, split: str) -> list[str]:
        return [type(self).__name__, split]

    def data_hash(self, split: str) -> str:
        """Hash of names and captions, not of pixels: it stays if pictures are replaced under their names."""
        return digest([*self.source_key(split), self.pairs(split).digest()])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Pixels become floats where the model is, whole batches at a time."""
        if isinstance(batch, ImageTextBatch) and not batch.images.is_floating_point():
            return batch._replace(images=normalised(batch.images))
        return batch

    def _held_out(self, split: str) -> dict[str, float]:
        """The parts that this split's source is shared out to, beside training."""
        mine = [name for name in ("val", "test") if self.sources[name] == self.sources[split]]
        shares = {name: self.splits.share(name) for name in ("val", "test")}
        if self.sources[split] == self.sources["train"]:
            return {name: shares[name] for name in mine}
        total = sum(shares[name] for name in mine)
        return {name: shares[name] / total if total else 1 / len(mine) for name in mine}

    def _order(self) -> dict[str, Any]:
        return {"number_passes": True}

    def _training_loader(self, sampler: SeededBatchSampler) -> ResumableLoader:
        return TrainingLoader(self._delivered("train"), batch_sampler=sampler, **self._loader_options())

    def _evaluation_loader(self, split: str) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = evaluation_batches(self.size(split), self.batch_size, rank, world)
        return CountingLoader(self._delivered(split), batch_sampler=batches, **self._loader_options())

    def _delivered(self, split: str) -> Delivered:
        return Delivered(self.dataset(split), as_bytes=self.trainer is not None)


def _hash_of_keys(keys: Sequence[str]) -> str:
    """Of the names of a split's pictures, in their order."""
    hashed = hashlib.sha256()
    for key in keys:
        hashed.update(key.encode("utf-8", "surrogateescape") + b"\0")
    return hashed.hexdigest()[:16]


def unused_words(unused: Mapping[str, int]) -> str:
    """'100 pictures .mask.png, 3 pictures .depth.png, which belong to other pictures', the most first."""
    ordered = sorted(unused.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} pictures .{name}" for name, count in ordered) + ", which belong to other pictures"
