"""The base of data sets of rendered pictures: captions, cached pixels, and embeddings attached by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.base import SPLITS, SplitDataModule, at_least, check_split
from datamodules.captioned.folder import added_columns
from datamodules.captions import GROUND_TRUTH, CaptionConfig
from datamodules.embeddings.folder import EmbeddingRows, open_embeddings
from datamodules.pictures.caption_table import Captions, CaptionTable
from datamodules.rendered.cache import MappedArray, RenderedOnDemand, cached_images, digest
from datamodules.transforms import to_float
from modules.batches import Captions as EmbeddedCaptions
from modules.batches import ImageTextBatch
from modules.errors import InputError


class Records(NamedTuple):
    """The records of a split, beside its pixels.

    Attributes:
        captions: n strings.
        attributes: (n, A) int64 classes, -1 where one does not apply; None where no truth is known.
    """

    captions: list[str]
    attributes: np.ndarray | None


class ImageTextDataset(Dataset[ImageTextBatch]):
    """n pairs; a list of indices gives a ready batch, in one vectorised go.

    Args:
        images: the pictures.
        records: captions and truth.
        embeddings: rows to attach, or None.
        captions: all captions of the pairs, where they have several sources. Draws, index + (pass + 1) * n, then show
            one of a pair's captions by its shares, from (seed, pass, index).
        seed: of the draws.
    """

    def __init__(
        self,
        images: MappedArray | RenderedOnDemand,
        records: Records,
        embeddings: EmbeddingRows | None,
        captions: Captions | None = None,
        seed: int = 0,
    ) -> None:
        self.images, self.records, self.embeddings = images, records, embeddings
        self.captions, self.seed = captions, seed

    def __len__(self) -> int:
        return len(self.records.captions)

    def __getitem__(self, index: int) -> ImageTextBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ImageTextBatch:
        shown, attributes = [self._caption(int(draw)) for draw in indices], self.records.attributes
        indices = [int(draw) % len(self) for draw in indices]
        return ImageTextBatch(
            images=to_float(self.images[indices]),
            captions=shown,
            index=torch.as_tensor(list(indices), dtype=torch.int64),
            attributes=None if attributes is None else torch.from_numpy(attributes[list(indices)]),
            embeddings=None if self.embeddings is None else self.embeddings[indices],
        )

    def _caption(self, draw: int) -> str:
        number, index = divmod(draw, len(self))
        if self.captions is None:
            return self.records.captions[index]
        if not number:
            return self.captions.first(index)
        return self.captions.drawn(index, np.random.default_rng((self.seed, number, index)))


class PairDataModule(SplitDataModule):
    """Base of the DataModules that draw their pictures: a subclass says what a pair is and how to render it.

    Args:
        image_size: side of the images in pixels.
        batch_size: pairs a batch and process.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: folder of the rendered images; None renders anew each time.
        seed: of the training order.
        num_workers: loader processes.

    Attributes:
        caption_config: which captions of a pair are shown, where it has several.
    """

    caption_config: CaptionConfig = CaptionConfig()
    token_features = False
    """Whether the batches hold the CLIP's features of every caption token."""

    def __init__(
        self,
        image_size: int,
        batch_size: int,
        embeddings: str | None,
        cache_dir: str | None,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        self.image_size = at_least(8, "image_size", image_size)
        self.embeddings = embeddings
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self._datasets: dict[str, ImageTextDataset] = {}
        self._captioned: dict[str, Captions] = {}

    def records(self, split: str) -> Records:
        """Captions and attributes of a split, by index."""
        raise NotImplementedError

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        """A picklable function index -> (size, size, 3) uint8."""
        raise NotImplementedError

    def source_key(self, split: str) -> list[str]:
        """All that a split's content depends on: the data's and the split's name, versions, hashes of code."""
        raise NotImplementedError

    def columns(self, split: str) -> dict[str, Sequence[str]]:
        """Source -> the caption of every pair, of the data's own sources."""
        return {GROUND_TRUTH: self.records(split).captions}

    def captioned(self, split: str) -> Captions | None:
        """All captions of a split's pairs, where `caption_config` names sources; None for one caption a pair.

        Raises:
            InputError: `captions.added` names a folder of other pairs.
        """
        config = self.caption_config
        if not (config.columns or config.added):
            return None
        if check_split(split) not in self._captioned:
            found = self.columns(split)
            size = len(next(iter(found.values())))
            found = {**found, **added_columns(config.added, split, size, self.pictures_hash(split))}
            pairs = ([(source, texts[k]) for source, texts in found.items() if texts[k]] for k in range(size))
            self._captioned[split] = Captions(CaptionTable(pairs), config)
        return self._captioned[split]

    def pictures_hash(self, split: str) -> str:
        """Identifies a split's pictures, whatever their captions: what written captions are filed under."""
        return digest([*self.source_key(split), len(self.records(split).captions)])

    def texts(self, split: str) -> Sequence[str]:
        captioned = self.captioned(split)
        return self.captions(split) if captioned is None else captioned.texts

    def images(self, split: str, size: int) -> MappedArray | RenderedOnDemand:
        """The split's pictures at any resolution, cached where there is a cache."""
        count, render = self.size(split), self.renderer(split, size)
        if self.cache_dir is None:
            return RenderedOnDemand(count, render)
        key = self.source_key(split)
        return cached_images(self.cache_dir, f"{key[0]}-{key[1]}", key, count, size, render)

    def empty_caption(self) -> EmbeddedCaptions:
        """The caption "" as the embeddings' CLIP gives it, one row.

        Raises:
            InputError: there are no embeddings, or their folder has none.
        """
        if self.embeddings is None:
            raise InputError("an empty caption comes with embeddings: make some and set data.init_args.embeddings")
        return open_embeddings(self.embeddings).empty_caption()

    def dataset(self, split: str) -> ImageTextDataset:
        if check_split(split) not in self._datasets:
            rows = None
            if self.embeddings is not None:
                folder = open_embeddings(self.embeddings)
                rows = folder.rows(split, self.size(split), self.data_hash(split), self.token_features)
                self._refuse_several(split)
            images, captioned = self.images(split, self.image_size), self.captioned(split)
            self._datasets[split] = ImageTextDataset(images, self.records(split), rows, captioned, self.seed)
        return self._datasets[split]

    def size(self, split: str) -> int:
        return len(self.records(split).captions)

    def captions(self, split: str) -> list[str]:
        captioned = self.captioned(split)
        return list(self.records(split).captions) if captioned is None else captioned.all_first()

    def _refuse_several(self, split: str) -> None:
        captioned = self.captioned(split)
        if split == "train" and captioned is not None and captioned.several:
            raise InputError(
                "embeddings hold one caption a pair, these data several: set captions.draw: false to train on the first"
            )

    def _order(self) -> dict[str, Any]:
        captioned = self.captioned("train")
        return {"number_passes": True} if captioned is not None and captioned.several else {}

    def real(self, split: str, index: int, sample: int, size: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """A real picture of pair `index`'s caption: (size, size, 3) uint8, and what is known to be true of it.

        Sample 0 is the pair's own picture. Further samples exist only where the data can draw what a caption says.

        Raises:
            InputError: `sample` is not 0 and the data hold one picture a caption.
        """
        if sample:
            raise InputError(f"{type(self).__name__} holds one picture a caption: ask for 1 a caption")
        return self.renderer(split, size)(index), {}

    @property
    def clip_fingerprint(self) -> str | None:
        """Fingerprint of the CLIP that made the attached embeddings; None if there are none."""
        return None if self.embeddings is None else open_embeddings(self.embeddings).info.clip_fingerprint

    @property
    def embedding_dim(self) -> int | None:
        """Width of the attached embeddings; None without any."""
        return None if self.embeddings is None else open_embeddings(self.embeddings).info.dim

    def data_hash(self, split: str) -> str:
        """Hash of the source and all captions, not of the resolution, which may differ between stages."""
        captioned = self.captioned(split)
        if captioned is None:
            return digest([self.source_key(split), self.captions(split)])
        return digest([self.source_key(split), captioned.digest(())])


def checked_sizes(train: int, val: int, test: int) -> dict[str, int]:
    """The three sizes by split; an InputError names one that is below 1."""
    sizes = dict(zip(SPLITS, (train, val, test), strict=True))
    for split, size in sizes.items():
        at_least(1, f"{split}_size", size)
    return sizes
