"""The embeddings folder: what is written is read, and what does not belong is refused by name."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import EmbeddingsInfo, open_embeddings
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.shapes import ShapesDataModule
from modules.batches import EmbeddingBatch
from modules.errors import InputError


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z_i, z_t = (normalize(torch.randn(n, 6, generator=generator), dim=1) for _ in range(2))
    return z_i, z_t, torch.randint(0, 9, (n, 4), generator=generator)


def chunks(all_rows, size=4):
    return zip(*(tensor.split(size) for tensor in all_rows), strict=True)


def info(**changes):
    return EmbeddingsInfo(**{"clip_fingerprint": "abc", "dim": 6, "context": 4, **changes})


@pytest.fixture
def folder(tmp_path):
    writer = EmbeddingsWriter(tmp_path / "e", info())
    writer.write("train", 10, "h-train", chunks(rows(10)))
    writer.write("val", 5, "h-val", chunks(rows(5, 1)))
    return tmp_path / "e"


def test_rows_come_back_by_index(folder):
    z_i, z_t, tokens = rows(10)
    batch = open_embeddings(folder).rows("train", 10, "h-train").__getitems__([7, 0, 9])
    assert isinstance(batch, EmbeddingBatch)
    assert torch.equal(batch.z_i, z_i[[7, 0, 9]])
    assert torch.equal(batch.z_t, z_t[[7, 0, 9]])
    assert torch.equal(batch.tokens, tokens[[7, 0, 9]])
    assert batch.index.tolist() == [7, 0, 9]
    assert batch.features is None
    assert [tensor.dtype for tensor in batch[:4]] == [torch.float32, torch.float32, torch.int64, torch.int64]


def test_the_folder_is_laid_out_as_documented(folder):
    assert np.load(folder / "train/img_emb/img_emb_0.npy").shape == (10, 6)
    assert np.load(folder / "train/text_emb/text_emb_0.npy").dtype == np.float32
    assert np.load(folder / "val/tokens/tokens_0.npy").dtype == np.int64
    said = json.loads((folder / "embeddings.json").read_text())
    assert said["sizes"] == {"train": 10, "val": 5}
    assert said["data_hash"] == {"train": "h-train", "val": "h-val"}
    assert (said["clip_fingerprint"], said["dim"], said["normalised"]) == ("abc", 6, True)
    assert sorted(path.name for path in folder.iterdir()) == ["embeddings.json", "train", "val"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", 11, "h-train"), r"10 rows in train, but the data have 11 pairs"),
        (("train", 9, "h-train"), r"10 rows in train, but the data have 9 pairs"),
        (("train", 10, "h-other"), r"other data \(hash h-train\) than these \(hash h-other\)"),
        (("test", 10, None), r"no embeddings of the test split \(there: train, val\)"),
        (("trian", None, None), r"unknown split 'trian'"),
    ],
)
def test_what_does_not_match_is_refused(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        open_embeddings(folder).rows(*arguments)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: np.save(f, np.zeros((10, 5), np.float32)),
            r"float32 of shape \(10, 5\), expected float32 of shape \(rows, 6\)",
        ),
        (lambda f: np.save(f, np.zeros((10, 6), np.float64)), "float64"),
        (lambda f: np.save(f, np.array([{}], object), allow_pickle=True), "not a readable array"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "not a readable array"),
        (lambda f: f.unlink(), "not a readable array"),
        (lambda f: np.save(f, np.zeros((9, 6), np.float32)), r"img_emb.*9 rows in 1 shard.*embeddings.json says 10"),
        (lambda f: np.savez(f.open("wb"), np.zeros(3)), "not a readable array"),
    ],
)
def test_a_damaged_array_is_named(folder, damage, message):
    path = folder / "train/img_emb/img_emb_0.npy"
    damage(path)
    with pytest.raises(InputError, match=message if "img_emb" in message else f"img_emb_0.npy.*{message}"):
        open_embeddings(folder).rows("train")


@pytest.mark.parametrize("text", ["{", "[]", '{"dim": 6}', '{"nonsense": 1}'])
def test_a_damaged_description_is_named(folder, text):
    (folder / "embeddings.json").write_text(text)
    with pytest.raises(InputError, match=r"embeddings.json: not a description of embeddings"):
        open_embeddings(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*make the folder with `unclip embed`"):
        open_embeddings(tmp_path / "nowhere")
    data = EmbeddingsDataModule(str(tmp_path / "nowhere"))  # Building it must work before the stage has run.
    with pytest.raises(InputError, match="nowhere"):
        data.setup("fit")


def test_embeddings_of_another_clip_are_not_mixed_in(folder):
    with pytest.raises(
        InputError, match=r"--clip of fingerprint abc, not xyz; --clip of width 6, not 8; name another folder"
    ):
        EmbeddingsWriter(folder, info(clip_fingerprint="xyz", dim=8))
    assert open_embeddings(folder).info.sizes == {"train": 10, "val": 5}
    EmbeddingsWriter(folder, info(clip_fingerprint="xyz"), overwrite=True).write("val", 5, "h", chunks(rows(5, 2)))
    found = open_embeddings(folder)
    assert (found.info.clip_fingerprint, found.info.sizes) == ("xyz", {"val": 5})


def test_complete_splits_are_recognised_and_other_data_refused(folder):
    writer = EmbeddingsWriter(folder, info())
    assert writer.holds("train", 10, "h-train")
    assert not writer.holds("test", 3, "h-test")
    assert not writer.holds("train", 10, "h-new", overwrite=True)
    with pytest.raises(InputError, match=r"train embeddings of other data \(10 rows, hash h-train\)"):
        writer.holds("train", 10, "h-new")


def test_an_interrupted_split_leaves_the_folder_as_it_was(folder):
    def interrupted():
        yield from chunks(rows(4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EmbeddingsWriter(folder, info()).write("test", 8, "h-test", interrupted())
    assert sorted(path.name for path in folder.iterdir()) == ["embeddings.json", "train", "val"]
    writer = EmbeddingsWriter(folder, info())
    writer.write("test", 8, "h-test", chunks(rows(8)))
    assert open_embeddings(folder).info.sizes == {"train": 10, "val": 5, "test": 8}


def test_an_interrupted_replacement_never_pairs_old_words_with_new_arrays(folder, monkeypatch):
    from pathlib import Path

    plain = Path.replace

    def crash(self, target):
        result = plain(self, target)
        if Path(target).name == "train":
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        EmbeddingsWriter(folder, info()).write("train", 10, "h-new", chunks(rows(10, 3)))
    assert open_embeddings(folder).info.sizes == {"val": 5}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda z: (z[0] * 2, z[1], z[2]), "unit norm"),
        (lambda z: (z[0], z[1][:, :5], z[2]), r"z_t: expected \(4, 6\), got \(4, 5\)"),
        (lambda z: tuple(t[:3] for t in z), "3 rows were given for a shard of 4"),
    ],
)
def test_the_writer_checks_what_it_is_given(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingsWriter(tmp_path, info()).write("val", 4, "h", [given(rows(4))])
    assert not (tmp_path / "val").exists()


def test_the_datamodule_gives_batches_of_embeddings(folder):
    data = EmbeddingsDataModule(str(folder), batch_size=4, seed=2)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch.index) for batch in batches] == [4, 4, 4]
    z_i = rows(10)[0]
    assert all(torch.equal(batch.z_i, z_i[batch.index]) for batch in batches)
    assert [batch.index.tolist() for batch in data.val_dataloader()] == [[0, 1, 2, 3], [4]]
    assert (data.size("val"), data.data_hash("val"), data.info.dim) == (5, "h-val", 6)
    with pytest.raises(InputError, match="holds tokens, no captions"):
        data.vocabulary()


def shapes(folder, **sizes):
    return ShapesDataModule(
        **{"image_size": 8, "batch_size": 3, "train_size": 10, "val_size": 5, "test_size": 3, **sizes},
        embeddings=str(folder),
        cache_dir=None,
    )


def test_pairs_carry_their_own_rows(tmp_path):
    hashes = ShapesDataModule(train_size=10, cache_dir=None).data_hash("train")
    EmbeddingsWriter(tmp_path, info()).write("train", 10, hashes, chunks(rows(10)))
    data = shapes(tmp_path)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.embeddings.index, batch.index)
    assert torch.equal(batch.embeddings.z_t, rows(10)[1][batch.index])
    with pytest.raises(InputError, match="no embeddings of the val split"):
        data.dataset("val")
    with pytest.raises(InputError, match="10 rows in train, but the data have 9 pairs"):
        shapes(tmp_path, train_size=9).dataset("train")


def test_pairs_refuse_rows_of_other_data(folder):
    with pytest.raises(InputError, match="belong to other data"):
        shapes(folder).dataset("train")


def test_loader_processes_get_paths_not_arrays_and_give_the_same_batches(tmp_path):
    options = {"image_size": 32, "batch_size": 50, "train_size": 400, "val_size": 1, "test_size": 1}
    plain = ShapesDataModule(**options, cache_dir=str(tmp_path))
    EmbeddingsWriter(tmp_path / "e", info()).write("train", 400, plain.data_hash("train"), chunks(rows(400)))
    options = {**options, "cache_dir": str(tmp_path), "embeddings": str(tmp_path / "e")}
    datasets = [ShapesDataModule(**options).dataset("train") for _ in range(2)]
    datasets[0].__getitems__([1])  # Maps the files.
    assert len(pickle.dumps(datasets[0])) < 100_000  # The pixels alone are 1.2 MB.
    here, there = datasets[1].__getitems__([7, 3]), pickle.loads(pickle.dumps(datasets[0])).__getitems__([7, 3])
    assert torch.equal(here.images, there.images)
    assert torch.equal(here.embeddings.z_i, there.embeddings.z_i)
    loaders = [ShapesDataModule(**options, num_workers=workers).train_dataloader() for workers in (0, 2)]
    for alone, served in zip(*loaders, strict=True):
        assert alone.captions == served.captions
        assert torch.equal(alone.images, served.images)
        assert torch.equal(alone.embeddings.z_t, served.embeddings.z_t)
