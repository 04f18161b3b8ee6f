"""Checks of a stage's config before training: settings in their ranges, sizes that agree with the data's.

All of it is looked at before a run folder is touched; each complaint is one line that names the setting. The stages and
their models know what they need (`check_settings` and `check_data`); here the data's sizes are found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from lightning.pytorch import LightningDataModule, LightningModule

from datamodules.base import SplitDataModule
from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import open_embeddings
from modules.errors import InputError
from modules.models.data_sizes import CaptionSizes, DataSizes
from modules.training.stage import Stage

TOKENS = 2**22
"""How many tokens of a split are looked at for the largest: 32 MB of them; of more, rows spread over all."""


def check_settings(stage: LightningModule, data: LightningDataModule, devices: int = 1) -> None:
    """Refuse settings with which training would go on and be of no use, or stumble when it is over.

    Only for a new run. A run that is resumed or evaluated keeps the settings that it was trained with.

    Args:
        stage: a LightningModule that is no Stage is not looked at.
        data: its data module.
        devices: how many share a step.

    Raises:
        InputError: there is one.
    """
    if isinstance(stage, Stage):
        sizes = DataSizes(_image_size(data))
        if isinstance(data, SplitDataModule):
            sizes = replace(sizes, batch=data.batch_size * devices, pairs=partial(data.size, "train"))
        stage.check_settings(sizes)


def check_data(stage: LightningModule, data: LightningDataModule, splits: Sequence[str] = ("train", "val")) -> None:
    """Refuse a network and data of different sizes.

    Args:
        stage: a LightningModule that is no Stage is not looked at.
        data: its data module.
        splits: those that will be read.

    Raises:
        InputError: they differ, or the embeddings are not there.
    """
    if not isinstance(stage, Stage):
        return
    if stage.takes_pictures and isinstance(data, EmbeddingsDataModule):
        raise InputError(
            f"data.class_path: {type(data).__name__} holds embeddings alone, and {type(stage).__name__} is trained on "
            "pictures: name a data module of pictures, such as datamodules.shapes.ShapesDataModule, and the folder as "
            "its data.init_args.embeddings"
        )
    stage.check_data(DataSizes(_image_size(data), partial(captions_of, data, splits)))


def _image_size(data: LightningDataModule) -> int | None:
    """Side of the pictures; data modules of embeddings, and other people's, may have none."""
    found: int | None = getattr(data, "image_size", None)
    return found


def captions_of(data: LightningDataModule, splits: Sequence[str]) -> CaptionSizes | None:
    """The captions of some splits that are filed with the data's embeddings; None for data without.

    Raises:
        InputError: the embeddings are not there, or damaged.
    """
    if isinstance(data, EmbeddingsDataModule) and data.embedding_dim is None:  # Of clip-retrieval: it says nothing.
        rows = data.dataset(splits[0])
        batch = rows[range(0, len(rows), -(-len(rows) // 1024))]
        return CaptionSizes(batch.tokens.shape[1], int(batch.tokens.max()), batch.z_i.shape[1], None, raw=False)
    path = data.folder if isinstance(data, EmbeddingsDataModule) else getattr(data, "embeddings", None)
    if path is None:
        return None
    folder = open_embeddings(path)
    largest = 0
    for split in (split for split in splits if split in folder.info.sizes):
        count = folder.info.sizes[split]
        tokens = folder.rows(split).tokens
        stride = max(1, math.ceil(count * folder.info.context / TOKENS))
        largest = max(largest, int(np.max(tokens[range(0, count, stride)], initial=0)))
    info = folder.info
    return CaptionSizes(info.context, largest, info.dim, info.features, raw=not info.normalised)
