"""Shards of embeddings: several files are one array, a split grows shard by shard, and what is half is not seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import EmbeddingsInfo, open_embeddings
from datamodules.embeddings.shards import metadata_path, numbered, open_array, read_captions, shard_path
from datamodules.embeddings.split import Encoded
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.faults import FaultPolicy
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


def made(folder, shard_rows=4, captions=True, **more):
    writer = EmbeddingsWriter(folder, INFO, **more)
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


PLAN = {"size": 10, "data_hash": "h", "shard_rows": 4, "captions": True}
SETTINGS = {"image_size": 32, "precision": "32-true"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 9}, "rows 10, not 9"),
        ({"data_hash": "other"}, "data of hash h, not other"),
        ({"shard_rows": 5}, "--shard-rows 4, not 5"),
        ({"captions": False}, r"captions beside \(with pyarrow\) True, not False"),
        ({"image_size": 64}, "--image-size 32, not 64"),
        ({"precision": "bf16-mixed"}, "--precision 32-true, not bf16-mixed"),
    ],
)
def test_shards_of_another_plan_are_neither_mixed_in_nor_removed_unasked(tmp_path, change, named):
    writer = EmbeddingsWriter(tmp_path, INFO, settings=SETTINGS)
    files = writer.split("train", **PLAN)
    files.prepare()
    write(writer, files, [0, 1])
    plan = {key: change.get(key, value) for key, value in PLAN.items()}
    settings = {key: change.get(key, value) for key, value in SETTINGS.items()}
    for act in ("check", "prepare"):
        with pytest.raises(
            InputError, match=rf"\.train\.partial: holds unfinished .*\({named}\): .*--overwrite"
        ) as error:
            getattr(EmbeddingsWriter(tmp_path, INFO, settings=settings).split("train", **plan), act)()
        assert "\n" not in str(error.value)
    assert files.missing() == [2]
    other = EmbeddingsWriter(tmp_path, INFO, overwrite=True, settings=settings).split("train", **plan)
    other.prepare()
    assert other.missing() == list(range(len(other.ranges)))
    assert not shard_path(files.partial, "z_i", 0).exists()


def test_shards_of_which_nothing_is_known_are_not_removed_unasked(tmp_path):
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", **PLAN)
    files.prepare()
    (files.partial / "plan.json").unlink()
    files.prepare()  # Nothing would be lost.
    write(writer, files, [0])
    (files.partial / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"\(plan\.json is missing or damaged\)"):
        files.prepare()


def test_shards_from_before_settings_were_recorded_are_gone_on_with(tmp_path):
    writer = EmbeddingsWriter(tmp_path, INFO)
    files = writer.split("train", **PLAN)
    files.prepare()
    write(writer, files, [0])
    later = EmbeddingsWriter(tmp_path, INFO, settings=SETTINGS).split("train", **PLAN)
    later.prepare()
    assert later.missing() == [1, 2]


def test_a_finished_split_made_with_other_settings_is_refused(tmp_path):
    made(tmp_path, settings=SETTINGS)
    assert EmbeddingsWriter(tmp_path, INFO, settings=SETTINGS).holds("train", 10, "h")
    changed = {**SETTINGS, "draft_margin": 1.0, "image_size": 64}
    with pytest.raises(InputError, match=r"holds train embeddings made with --image-size 32, not 64; .*--overwrite"):
        EmbeddingsWriter(tmp_path, INFO, settings=changed).holds("train", 10, "h")
    assert not EmbeddingsWriter(tmp_path, INFO, settings=changed).holds("train", 10, "h", overwrite=True)
    made(tmp_path, settings=changed, overwrite=True)
    assert open_embeddings(tmp_path).info.settings == {"train": changed}
    said = json.loads((tmp_path / "embeddings.json").read_text())
    del said["settings"], said["replaced"]
    (tmp_path / "embeddings.json").write_text(json.dumps({**said, "source": SETTINGS}))  # Of an older version.
    with pytest.raises(InputError, match=r"--image-size 32, not 64"):
        EmbeddingsWriter(tmp_path, INFO, settings=changed).holds("train", 10, "h")
    assert EmbeddingsWriter(tmp_path, INFO, settings=SETTINGS).holds("train", 10, "h")


def standing_in(pairs, rows):
    """Rows of which some hold another pair's embeddings."""
    index = [pairs.get(row, row) for row in rows]
    return replace(encoded(index), index=torch.tensor(index))


def test_rows_that_hold_another_pair_are_recorded_shard_by_shard_and_left_out(tmp_path):
    pairs = {2: 7, 9: 0}
    for numbers in ([0], [1, 2]):  # Interrupted after the first shard.
        writer = EmbeddingsWriter(tmp_path, INFO)
        files = writer.split("train", **PLAN)
        files.prepare()
        for number in numbers:
            shard, rows = files.shard(number), files.ranges[number]
            files.append(shard, standing_in(pairs, rows[:1]))
            files.append(shard, standing_in(pairs, rows[1:]))
            shard.close()
    writer.finish(files)
    folder = open_embeddings(tmp_path)
    assert folder.info.replaced == {"train": 2}
    assert folder.replaced("train").tolist() == [[2, 7], [9, 0]]
    assert folder.rows("train").replaced == {2, 9}
    assert torch.equal(folder.rows("train")[[2]].z_i, encoded([7]).z_i)
    data = EmbeddingsDataModule(str(tmp_path), faults=FaultPolicy(max_skipped=2), token_features=True)
    own = [0, 1, 3, 4, 5, 6, 7, 8]
    assert data.size("train") == 8
    batch = data.dataset("train").__getitems__(list(range(8)))
    assert torch.equal(batch.z_i, encoded(own).z_i)
    assert torch.equal(batch.features, encoded(own).features)
    assert data.captions("train") == [f"caption {row}" for row in own]
    assert data.log("train").summary() == "2 skipped from train (2 for a row that holds another pair)"
    with pytest.raises(InputError, match=r"more than the 1 that faults.max_skipped \(0.1\)"):
        EmbeddingsDataModule(str(tmp_path), faults=FaultPolicy(max_skipped=0.1)).dataset("train")
    with pytest.raises(InputError, match=r"train/replaced: a row that holds another pair; correct it"):
        EmbeddingsDataModule(str(tmp_path), faults=FaultPolicy("refuse")).dataset("train")
    (tmp_path / "train" / "replaced" / "replaced_2.npy").unlink()
    with pytest.raises(InputError, match=r"train/replaced: 1 rows, but embeddings\.json says 2"):
        folder.rows("train")
    np.save(tmp_path / "train" / "replaced" / "replaced_2.npy", np.array([[10, 0]]))
    with pytest.raises(InputError, match=r"replaced_2\.npy: names row 10 of 10"):
        folder.rows("train")


def test_a_shard_that_is_made_again_keeps_no_record_of_the_one_before(tmp_path):
    files = EmbeddingsWriter(tmp_path, INFO).split("train", **PLAN)
    files.prepare()
    for pairs in ({2: 7}, {}):
        shard = files.shard(0)
        files.append(shard, standing_in(pairs, files.ranges[0]))
        shard.close()
        assert len(files.replaced()) == len(pairs)


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
    monkeypatch.setattr("datamodules.embeddings.writer.shutil.disk_usage", lambda path: usage(0, 0, 100))
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
