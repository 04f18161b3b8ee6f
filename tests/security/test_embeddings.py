"""Embeddings that were changed after they were written are refused; so are a checkpoint and captions of other words."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from datamodules.embeddings.folder import MANIFEST, open_embeddings
from datamodules.embeddings.module import EmbeddingsDataModule
from datamodules.shapes import ShapesDataModule
from experiments.embeddings.embed import embed
from modules.clip.frozen import FrozenCLIP
from modules.clip.trainer import CLIPTrainer, check_words
from modules.errors import InputError


@pytest.fixture
def folder(embeddings, tmp_path):
    return shutil.copytree(embeddings, tmp_path / "embeddings")


def rewritten(folder, kind, change):
    path = folder / "train" / kind / f"{kind}_0.npy"
    np.save(path, change(np.load(path)))
    return path


CHANGES = {
    "zeros": np.zeros_like,
    "times 7": lambda a: a * 7,
    "reversed": lambda a: a[::-1].copy(),
    "one NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, np.nan, a).astype(a.dtype),
    "one bit": lambda a: np.nextafter(a, a + 1),
}


def unsigned(folder):
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    del content["checksums"], content["version"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["img_emb", "text_emb"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed_by_its_file(folder, kind, change):
    path = rewritten(folder, kind, CHANGES[change])
    with pytest.raises(InputError, match=f"{path.name} is not the file"):
        EmbeddingsDataModule(str(folder)).dataset("train")


def test_so_are_other_tokens(folder):
    path = rewritten(folder, "tokens", lambda a: a[::-1].copy())
    with pytest.raises(InputError, match=f"{path.name} is not the file"):
        open_embeddings(folder).rows("train")


@pytest.mark.parametrize("change", ["zeros", "times 7", "one NaN"])
def test_without_checksums_norms_are_looked_at(folder, change):
    unsigned(folder)
    assert len(open_embeddings(folder).rows("train")) == 64  # As before there were checksums.
    rewritten(folder, "img_emb", CHANGES[change])
    with pytest.raises(InputError, match="has norm"):
        open_embeddings(folder).rows("train")


def without(*kinds):
    def change(content):
        train = content["checksums"]["train"]
        content["checksums"]["train"] = {name: digest for name, digest in train.items() if name.split("/")[0] in kinds}

    return change


STRIPPED = {
    "all": lambda content: content.pop("checksums"),
    "those of a split": lambda content: content["checksums"].pop("train"),
    "those of z_i": without("text_emb", "tokens"),
    "those of a split, of no version": lambda content: (content["checksums"].pop("train"), content.pop("version")),
    "a version that there is not": lambda content: content.update(version=2),
}


@pytest.mark.parametrize("what", STRIPPED)
def test_checksums_that_were_removed_are_missed(folder, what, caplog):
    content = json.loads((folder / MANIFEST).read_text())
    STRIPPED[what](content)
    (folder / MANIFEST).write_text(json.dumps(content))
    rewritten(folder, "img_emb", CHANGES["reversed"])
    if what == "those of a split, of no version":  # As a split of an earlier version beside others.
        open_embeddings(folder).rows("train")
        assert "has no checksums" in caplog.text
        return
    with pytest.raises(InputError, match=r"has no checksum in embeddings\.json|version is 2"):
        open_embeddings(folder).rows("train")


@pytest.fixture
def paired(folder):
    """An unsigned folder of a CLIP that was trained: the two embeddings of a row are near each other."""
    unsigned(folder)
    rng = np.random.default_rng(0)
    shape = np.load(folder / "train" / "img_emb" / "img_emb_0.npy").shape
    z_i = rng.normal(size=shape)
    for kind, z in (("img_emb", z_i), ("text_emb", z_i + rng.normal(size=shape))):
        z = z + 2.0  # In a cone, as a CLIP's are: every cosine is large.
        rewritten(folder, kind, lambda a, z=z: (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(a.dtype))
    return folder


@pytest.mark.parametrize("kind", ["img_emb", "text_emb"])
def test_rows_in_another_order_are_said_without_checksums(paired, kind, caplog):
    open_embeddings(paired).rows("train")
    assert "no nearer" not in caplog.text
    rewritten(paired, kind, CHANGES["reversed"])
    open_embeddings(paired).rows("train")
    assert f"{paired / 'train'}: z_i and z_t of a row are no nearer to each other" in caplog.text


def test_a_folder_of_an_earlier_version_is_read_and_said_once(folder, caplog):
    unsigned(folder)
    for _ in range(2):
        open_embeddings(folder).rows("train")
    assert caplog.text.count("has no checksums") == 1


def test_a_shard_that_was_added_is_noticed(folder):
    path = folder / "train" / "img_emb" / "img_emb_1.npy"
    np.save(path, np.load(path.with_name("img_emb_0.npy"))[:0])
    with pytest.raises(InputError, match=r"img_emb_1\.npy has no checksum"):
        open_embeddings(folder).rows("train")


def test_embed_compares_some_pairs_with_the_clip(folder, clip_folder, tiny):
    data, clip = ShapesDataModule(16, **tiny.SIZES, cache_dir=None), FrozenCLIP(str(clip_folder))
    embed(data, clip, folder, ["train"])  # They are there, and are right.
    unsigned(folder)
    rewritten(folder, "img_emb", lambda a: np.roll(-a, 1, axis=1))
    with pytest.raises(InputError, match=r"row \d+ of train is not the z_i of its pair"):
        embed(data, clip, folder, ["train"])


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 10**12},
        {"dim": "16"},
        {"sizes": {"train": -1}},
        {"sizes": {"../x": 64}},
        {"sizes": [64]},
        {"checksums": {"train": {"../../unclip-canary.png": "0"}}},
        {"clip_fingerprint": {"class_path": "x"}},
        {"normalised": "yes"},
    ],
)
def test_a_description_is_plain(folder, change):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=r"embeddings\.json"):
        open_embeddings(folder).rows("train")


def test_a_checkpoint_holds_its_words_and_refuses_others(tiny, shapes, tmp_path):
    trainer = tiny.fit(tiny.make_stage("clip"), shapes(), 2, tmp_path)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    words = shapes().vocabulary()
    assert torch.load(path, weights_only=True)["vocabulary"] == words
    tiny.fit(tiny.make_stage("clip"), shapes(), 3, tmp_path, resumed=path)
    data = shapes()
    data.vocabulary = lambda: ["aardvark", *words[1:]]
    data.texts = lambda split: ["aardvark"]
    with pytest.raises(InputError, match=f"new 'aardvark'; gone {words[0]!r}"):
        tiny.fit(tiny.make_stage("clip"), data, 3, tmp_path, resumed=path)
    stage = tiny.make_stage("clip")
    with pytest.raises(InputError, match="other words"):
        trainer.validate(stage, datamodule=data, ckpt_path=str(path), weights_only=True, verbose=False)
    assert isinstance(stage, CLIPTrainer)


def test_words_in_another_order_are_other_words():
    check_words(["a", "b"], ["a", "b"])
    with pytest.raises(InputError, match="another order"):
        check_words(["a", "b"], ["b", "a"])
