"""Scenes of one to six shapes as a data set (`datamodules.limits.crowd_scenes`), for the paper's figure 17."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from datamodules.base import check_split
from datamodules.limits import crowd_scenes
from datamodules.limits.base import LimitsDataModule
from datamodules.rendered import scenes
from datamodules.rendered.cache import cached_json, source_hash
from datamodules.rendered.pairs import Records


class CrowdsDataModule(LimitsDataModule):
    """Image-text pairs of one to six objects, equally often, with the true attributes of every picture.

    The arguments are those of `datamodules.limits.base.LimitsDataModule`.
    """

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        return crowd_scenes.ATTRIBUTES

    def records(self, split: str) -> Records:
        if check_split(split) not in self._records:
            make = partial(_make_records, split, self.sizes[split])
            key = [*self.source_key(split), self.sizes[split]]
            found = (
                make() if self.cache_dir is None else cached_json(self.cache_dir, f"crowds-{split}-records", key, make)
            )
            self._records[split] = Records(found["captions"], np.array(found["attributes"], np.int64))
        return self._records[split]

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        return partial(_render, check_split(split), size)

    def source_key(self, split: str) -> list[str]:
        return ["crowds", check_split(split), source_hash(crowd_scenes), source_hash(scenes)]

    def real(self, split: str, index: int, sample: int, size: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """As in the base class; sample k > 0 is another scene of the same objects, drawn from `seed`."""
        pair = crowd_scenes.make_crowd(check_split(split), index)
        scene = crowd_scenes.crowd_for(pair.mentioned, seed) if sample else pair.scene
        return scenes.render(scene, size), {"mentioned": pair.mentioned}


def _make_records(split: str, count: int) -> dict[str, list]:
    pairs = [crowd_scenes.make_crowd(split, index) for index in range(count)]
    return {
        "captions": [pair.caption for pair in pairs],
        "attributes": [crowd_scenes.attributes(pair.scene).tolist() for pair in pairs],
    }


def _render(split: str, size: int, index: int) -> np.ndarray:
    return scenes.render(crowd_scenes.make_crowd(split, index).scene, size)
