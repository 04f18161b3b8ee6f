"""Shapes, the embedded data set: scenes of one or two shapes, endless, exact, and nothing to download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import numpy as np

from datamodules.base import check_split
from datamodules.captions import CaptionConfig
from datamodules.rendered import channels, scenes
from datamodules.rendered.cache import cached_json, source_hash
from datamodules.rendered.channels import AltText
from datamodules.rendered.pairs import PairDataModule, Records, checked_sizes
from datamodules.rendered.reading import read


class ShapesDataModule(PairDataModule):
    """Image-text pairs of `datamodules.rendered.scenes`, with the true attributes of every picture.

    Pair i of a split is the same whatever the sizes: a larger split begins with the smaller one. Some test captions
    hold (colour, shape) combinations that training never shows.

    Args:
        image_size: side of the images in pixels; the scenes are vector drawings, so any will do.
        batch_size: pairs a batch and process, in training and in evaluation.
        train_size: number of training pairs.
        val_size: number of validation pairs.
        test_size: number of test pairs.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: folder of the rendered images, shared by all stages; null renders whenever an image is asked for.
        seed: of the training order; the scenes do not depend on it.
        num_workers: loader processes; 0 is fastest while the images fit into memory.
        train_split: "train", or "unrestricted" to train on every (colour, shape) combination, for models that judge
            pictures (a classifier, a second CLIP) and take no part in making them.
        token_features: whether the batches hold the CLIP's features of every caption token, for networks that read them
            (`unclip embed --token-features`).
        captions: which captions are shown. `columns` names channels (`datamodules.rendered.channels`): "caption" (the
            data set's own), "alt_text", "short", "descriptive"; empty is the data set's own alone.
        alt_text: rates of the alt-text channel.

    Raises:
        InputError: a size below its bound, an embeddings folder of other data, a cache that can't be written.
    """

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 64,
        train_size: int = 20_000,
        val_size: int = 512,
        test_size: int = 1_024,
        embeddings: str | None = None,
        cache_dir: str | None = "runs/cache",
        seed: int = 0,
        num_workers: int = 0,
        train_split: Literal["train", "unrestricted"] = "train",
        token_features: bool = False,
        captions: CaptionConfig = CaptionConfig(),
        alt_text: AltText = AltText(),
    ) -> None:
        super().__init__(image_size, batch_size, embeddings, cache_dir, seed, num_workers)
        self.token_features = token_features
        self.caption_config, self.alt_text = captions, alt_text
        for name in captions.columns.values():
            channels.channel(name, alt_text)  # An unknown channel is refused now.
        self.sizes = checked_sizes(train_size, val_size, test_size)
        self._sources = {"train": train_split, "val": "val", "test": "test"}
        self._records: dict[str, Records] = {}

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        return scenes.ATTRIBUTES

    def records(self, split: str) -> Records:
        if check_split(split) not in self._records:
            make = partial(_make_records, self._sources[split], self.sizes[split])
            if self.cache_dir is None:
                found = make()
            else:
                key = [*self.source_key(split), self.sizes[split]]
                found = cached_json(self.cache_dir, f"shapes-{self._sources[split]}-records", key, make)
            self._records[split] = Records(found["captions"], np.array(found["attributes"], np.int64))
        return self._records[split]

    def columns(self, split: str) -> dict[str, Sequence[str]]:
        wanted = self.caption_config.columns
        if not wanted:
            return super().columns(split)
        source, size = self._sources[check_split(split)], self.sizes[split]
        make = partial(_make_columns, source, size, wanted, self.alt_text)
        if self.cache_dir is None:
            found = make()
        else:
            key = [*self.source_key(split), size, source_hash(channels), wanted, asdict(self.alt_text)]
            found = cached_json(self.cache_dir, f"shapes-{source}-columns", key, make)
        return {name: found[name] for name in wanted}

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        return partial(_render, self._sources[check_split(split)], size)

    def source_key(self, split: str) -> list[str]:
        return ["shapes", self._sources[check_split(split)], source_hash(scenes)]

    def size(self, split: str) -> int:
        return self.sizes[check_split(split)]

    def real(self, split: str, index: int, sample: int, size: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """As in the base class; sample k > 0 is another scene that the caption describes, drawn from `seed`.

        The truth is {"mentioned": what the caption says, "scene": all that the picture shows, "held_out": whether the
        caption names a combination that training never shows}; the first two as in `scenes.describe`.
        """
        pair, captioned = self.pair(split, index), self.captioned(split)
        mentioned = pair.mentioned if captioned is None else read(captioned.first(index)).said
        scene = scenes.scene_for(mentioned, seed) if sample else pair.scene
        named = {(thing["colour"], thing["shape"]) for thing in mentioned["objects"]}
        truth = {"mentioned": mentioned, "scene": scenes.describe(scene)}
        return scenes.render(scene, size), {**truth, "held_out": not named.isdisjoint(scenes.HELD_OUT)}

    def truth(self, split: str, index: int) -> dict[str, Any]:
        """All that is true of a pair's picture, see `scenes.describe`."""
        return scenes.describe(self.pair(split, index).scene)

    def pair(self, split: str, index: int) -> scenes.Pair:
        """The index-th pair with its scene and what its caption mentions."""
        return scenes.make_pair(self._sources[check_split(split)], index)


def _make_records(split: str, count: int) -> dict[str, list]:
    pairs = [scenes.make_pair(split, index) for index in range(count)]
    return {
        "captions": [pair.caption for pair in pairs],
        "attributes": [scenes.attributes(pair.scene).tolist() for pair in pairs],
    }


def _make_columns(split: str, count: int, wanted: dict[str, str], rates: AltText) -> dict[str, list[str]]:
    pairs = [scenes.make_pair(split, index) for index in range(count)]
    of = {name: channels.channel(channel, rates) for name, channel in wanted.items()}
    return {name: [say(pair, split, k).text for k, pair in enumerate(pairs)] for name, say in of.items()}


def _render(split: str, size: int, index: int) -> np.ndarray:
    return scenes.render(scenes.make_pair(split, index).scene, size)
