"""Shards of embeddings: several files are one array, a split grows shard by shard, and what is half is not seen."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from datamodules.embedding_shards import metadata_path, numbered, open_array, read_captions, shard_path
from datamodules.embedding_writer import EmbeddingsWriter, Encoded
from datamodules.embeddings import EmbeddingsDataModule, EmbeddingsInfo, open_embeddings
from modules.errors import InputError

INFO = EmbeddingsInfo("abc", 6, 4, features=3)


def encoded(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z_i, z_t = (normalize(torch.randn(100, 6, generator=generator), dim=1)[list(rows)] for _ in range(2))
    tokens = torch.randint(0, 9, (100, 4), generator=generator)[list(rows)]
    features = torch.randn(100, 4, 3, generator=generator).half().float()[list(rows)]
    return Encoded(z_i, z_t, tokens, [f"caption {row}" for row in rows], features)


def write(writer, files, numbers):
    for number in numbers:
        shard = files.shard(number)
        rows = files.ranges[number]
        files.append(shard, encoded(rows[:2]))
        files.append(shard, encoded(rows[2:]))
        shard.close()


def made(folder, shard_rows=4, captions=True):
    writer = EmbeddingsWriter(folder, INFO)
    files = writer.split("train", 10, "h", shard_rows, captions)
    files.prepare()
    write(writer, files, files.missing())
    writer.finish(files)
    return folder


def test_several_shards_are_read_as_one_split(tmp_path):
    rows = open_embeddings(made(tmp_path)).rows("train", 10, "h", token_features=True)
    wanted = [9, 0, 4, 3, 9]
    batch, truth = rows[wanted], encoded(wanted)
    for got, expected in zip(batch[:3], (truth.z_i, truth.z_t, truth.tokens), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(batch.features, truth.features)
    assert batch.index.tolist() == wanted
    assert open_embeddings(tmp_path).rows("train")[wanted].features is None
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
        "img_emb",
        "metadata",
        "text_emb",
        "token_features",
        "tokens",
    ]
    assert list(numbered(tmp_path / "train", "img_emb")) == [0, 1, 2]
    assert np.load(shard_path(tmp_path / "train", "z_i", 2)).shape == (2, 6)


def test_the_shards_are_whatever_their_size_the_same_rows(tmp_path):
    one, many = (open_embeddings(made(tmp_path / str(n), n)).rows("train")[range(10)] for n in (10, 3))
    assert all(torch.equal(a, b) for a, b in zip(one[:4], many[:4], strict=True))


def test_captions_lie_beside_as_clip_retrieval_has_them(tmp_path):
    made(tmp_path)
    assert read_captions(metadata_path(tmp_path / "train", 1)).to_pylist() == [f"caption {k}" for k in range(4, 8)]
    data = EmbeddingsDataModule(str(tmp_path))
    assert data.captions("train") == [f"caption {k}" for k in range(10)]
    made(tmp_path / "without", captions=False)
    with pytest.raises(InputError, match="holds tokens, no captions"):
        EmbeddingsDataModule(str(tmp_path / "without")).captions("train")


def test_batches_hold_token_features_where_asked_for(tmp_path):
    data = EmbeddingsDataModule(str(made(tmp_path)), batch_size=5, token_features=True)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.features, encoded(batch.index.tolist()).features)
    assert batch.rows(slice(2)).features.shape == (2, 4, 3)
    plain = EmbeddingsWriter(tmp_path / "plain", EmbeddingsInfo("abc", 6, 4))
    truth = encoded(range(5))
    plain.write("train", 5, "h", [(truth.z_i, truth.z_t, truth.tokens)])
    with pytest.raises(InputError, match="holds no token features; run `unclip embed --token-features`"):
        EmbeddingsDataModule(str(tmp_path / "plain"), token_features=True).dataset("train")


def test_an_interrupted_split_goes_on_with_the_shards_that_are_missing(tmp_path):
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", 10, "h", 4, True)
    files.prepare()
    write(writer, files, [0, 2])
    half = files.shard(1)
    files.append(half, encoded(range(4, 6)))  # ... and here the process is killed.
    assert not (tmp_path / "embeddings.json").exists()
    before = shard_path(files.partial, "z_i", 2).stat().st_mtime_ns
    again = EmbeddingsWriter(tmp_path, INFO)
    files = again.split("train", 10, "h", 4, True)
    files.prepare()
    assert files.missing() == [1]
    assert not list(files.partial.rglob(".*.part"))
    with pytest.raises(ValueError, match=r"shards \[1\] are missing"):
        again.finish(files)
    write(again, files, [1])
    again.finish(files)
    assert shard_path(tmp_path / "train", "z_i", 2).stat().st_mtime_ns == before
    rows = open_embeddings(tmp_path).rows("train", 10, "h")[range(10)]
    assert torch.equal(rows.z_i, encoded(range(10)).z_i)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings.json", "train"]


@pytest.mark.parametrize("lacking", ["z_i", "tokens", "features", "captions"])
def test_a_shard_is_complete_when_all_of_its_files_are(tmp_path, lacking):
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", 10, "h", 5, True)
    files.prepare()
    write(writer, files, [0, 1])
    path = metadata_path(files.partial, 1) if lacking == "captions" else shard_path(files.partial, lacking, 1)
    path.unlink()
    assert files.missing() == [1]


@pytest.mark.parametrize("change", [{"size": 9}, {"data_hash": "other"}, {"shard_rows": 5}, {"captions": False}])
def test_shards_of_another_plan_are_not_mixed_in(tmp_path, change):
    plan = {"size": 10, "data_hash": "h", "shard_rows": 4, "captions": True}
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", **plan)
    files.prepare()
    write(writer, files, [0, 1])
    other = writer.split("train", **{**plan, **change})
    other.prepare()
    assert other.missing() == list(range(len(other.ranges)))
    assert not shard_path(files.partial, "z_i", 0).exists()


def test_a_run_that_ended_before_it_said_so_is_taken_over(tmp_path):
    made(tmp_path)
    plan = tmp_path / "train" / "plan.json"
    writer = EmbeddingsWriter(tmp_path / "new", INFO)
    files = writer.split("train", 10, "h", 4, True)
    plan.write_text(json.dumps(files._plan))
    (tmp_path / "embeddings.json").unlink()
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", 10, "h", 4, True)
    files.prepare()
    assert files.missing() == []
    writer.finish(files)
    assert open_embeddings(tmp_path).info.sizes == {"train": 10}
    assert not plan.exists()


def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path):
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", 4, "h", 4, False)
    files.prepare()
    shard, rows = files.shard(0), encoded(range(4))
    with pytest.raises(ValueError, match="unit norm"):
        files.append(shard, Encoded(rows.z_i * 2, rows.z_t, rows.tokens, rows.captions, rows.features))
    with pytest.raises(ValueError, match="token features are missing"):
        files.append(shard, Encoded(rows.z_i, rows.z_t, rows.tokens, rows.captions))
    with pytest.raises(ValueError, match=r"features: expected \(4, 4, 3\), got \(4, 4, 2\)"):
        files.append(shard, Encoded(rows.z_i, rows.z_t, rows.tokens, rows.captions, rows.features[..., :2]))
    with pytest.raises(ValueError, match="0 rows were given for a shard of 4"):
        shard.close()
    assert files.missing() == [0]


def test_room_is_asked_for_first(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("datamodules.embedding_writer.shutil.disk_usage", lambda path: usage(0, 0, 100))
    files = EmbeddingsWriter(tmp_path, INFO).split("train", 10**6, "h", 4096, False)
    with pytest.raises(InputError, match=r"needs 104 MB for the train embeddings and has 0 MB free"):
        files.prepare()


def test_shards_of_several_widths_or_dtypes_are_named(tmp_path):
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    for path, array in zip(
        paths, (np.zeros((2, 3), "f4"), np.zeros((2, 4), "f4"), np.zeros((2, 3), "f2")), strict=True
    ):
        np.save(path, array)
    assert len(open_array([paths[0], paths[0]], ["float32"], (-1,), "hint")) == 4
    with pytest.raises(InputError, match=r"b.npy: float32 rows of shape \(4,\), in a.npy float32 of \(3,\); hint"):
        open_array(paths[:2], ["float32"], (-1,), "hint")
    with pytest.raises(InputError, match=r"c.npy: float16"):
        open_array([paths[0], paths[2]], ["float16", "float32"], (3,), "hint")
    with pytest.raises(InputError, match=r"a.npy: float32 of shape \(2, 3\), expected int64 of shape \(rows, any\)"):
        open_array(paths[:1], ["int64"], (-1,), "hint")


def test_rows_out_of_range_are_no_rows(tmp_path):
    rows = open_embeddings(made(tmp_path)).rows("train")
    for wrong in ([10], [-1, 3]):
        with pytest.raises(IndexError):
            rows[wrong]
