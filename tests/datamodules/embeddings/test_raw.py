"""Caches of a CLIP's own embeddings, not of unit norm, and token features beside pictures: what Karlo is tuned on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.embeddings.checks import check_norms
from datamodules.embeddings.folder import open_embeddings
from datamodules.shapes import ShapesDataModule
from experiments.embeddings.embed import embed
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError

SIZES = {"train_size": 6, "val_size": 2, "test_size": 2, "cache_dir": None}


class RawCLIP(FrozenCLIP):
    """A CLIP whose embeddings have a norm of 3."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.raw = True

    def encode_image(self, images):
        return 3 * torch.nn.functional.normalize(super().encode_image(images), dim=1)

    def encode_text(self, tokens):
        return 3 * torch.nn.functional.normalize(super().encode_text(tokens), dim=1)


@pytest.fixture(scope="module")
def folder(clip_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("raw")
    clip = RawCLIP(str(clip_folder))
    embed(ShapesDataModule(16, **SIZES), clip, place, ("train",), token_features=True)
    embed(ShapesDataModule(16, **SIZES), clip, place, ("train",), token_features=True)  # Compared with what is there.
    return place


def test_raw_embeddings_are_kept_as_they_are(folder):
    opened = open_embeddings(folder)
    assert opened.info.normalised is False
    batch = opened.rows("train")[range(6)]
    for z in (batch.z_i, batch.z_t):
        torch.testing.assert_close(z.norm(dim=1), torch.full((6,), 3.0))


@pytest.mark.parametrize("norm", [0.0, float("nan")])
def test_embeddings_of_no_norm_are_refused(norm):
    rows = np.full((4, 3), 2.0)
    check_norms(rows, Path("raw"), unit=False)
    with pytest.raises(InputError, match=r"has norm 3\.464 and not 1 "):
        check_norms(rows, Path("raw"))
    rows[2] = norm
    with pytest.raises(InputError, match=f"row 2 has norm {norm:g} "):
        check_norms(rows, Path("raw"), unit=False)


def test_pictures_have_the_features_of_their_captions(folder):
    data = ShapesDataModule(16, **SIZES, embeddings=str(folder), token_features=True)
    batch = data.dataset("train").__getitems__([0, 3])
    wanted = open_embeddings(folder).rows("train", token_features=True)[[0, 3]]
    assert batch.embeddings is not None and torch.equal(batch.embeddings.features, wanted.features)
    plain = ShapesDataModule(16, **SIZES, embeddings=str(folder)).dataset("train").__getitems__([0])
    assert plain.embeddings.features is None
