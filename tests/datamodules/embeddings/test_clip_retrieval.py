"""Folders as clip-retrieval writes them: float16, several shards, captions in parquet, and nothing said about them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.embeddings import EmbeddingsDataModule
from datamodules.faults import FaultPolicy
from modules.clip.word_tokenizer import WordTokenizer
from modules.errors import InputError

CAPTIONS = [f"a {'red' if k % 2 else 'blue'} circle" for k in range(13)]
TOKENIZER = WordTokenizer(["a", "blue", "circle", "red"], 8, 5)


def write(folder, shards=(5, 6, 2), width=8, padded=True):
    """The same calls as clip-retrieval's writer makes: np.save of float16, DataFrame.to_parquet."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=(2, sum(shards), 8))
    z = (z / np.linalg.norm(z, axis=2, keepdims=True)).astype(np.float16)
    start = 0
    for number, rows in enumerate(shards):
        name = f"{number:02}" if padded else str(number)
        part = slice(start, start + rows)
        for place, array in zip(("img_emb", "text_emb"), z, strict=True):
            (folder / place).mkdir(parents=True, exist_ok=True)
            np.save(folder / place / f"{place}_{name}.npy", array[part, :width])
        table = {"image_path": [f"{k}.jpg" for k in range(rows)], "caption": CAPTIONS[part], "similarity": [0.3] * rows}
        (folder / "metadata").mkdir(exist_ok=True)
        pd.DataFrame(table).to_parquet(folder / "metadata" / f"metadata_{name}.parquet")
        start += rows
    return torch.from_numpy(z.astype(np.float32))


def opened(folder, **changes):
    return EmbeddingsDataModule(
        **{"folder": str(folder), "tokenizer": TOKENIZER, "val_size": 2, "test_size": 3, **changes}
    )


def test_the_folder_is_read_as_it_is(tmp_path):
    z = write(tmp_path)
    data = opened(tmp_path, batch_size=4)
    assert [data.size(split) for split in ("train", "val", "test")] == [8, 2, 3]
    truth = torch.nn.functional.normalize(z, dim=2)
    for split, first in (("train", 0), ("val", 8), ("test", 10)):
        size = data.size(split)
        batch = data.dataset(split)[range(size)]
        assert batch.z_i.dtype == torch.float32
        assert torch.equal(batch.z_i, truth[0, first : first + size])
        assert torch.equal(batch.z_t, truth[1, first : first + size])
        assert torch.equal(batch.tokens, TOKENIZER(CAPTIONS[first : first + size]))
        assert batch.index.tolist() == list(range(size))
        assert data.captions(split) == CAPTIONS[first : first + size]
        assert torch.allclose(batch.z_i.norm(dim=1), torch.ones(size), atol=1e-6)
    seen = torch.cat([batch.index for batch in data.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(8))
    assert data.clip_fingerprint is None


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    z = write(tmp_path, shards=(1,) * 12 + (1,), padded=False)  # img_emb_10 comes after img_emb_9.
    batch = opened(tmp_path).dataset("train")[range(8)]
    assert torch.equal(batch.z_i, torch.nn.functional.normalize(z[0, :8], dim=1))


def test_a_folder_for_each_split_needs_no_sizes(tmp_path):
    for split, shards in (("train", (5, 3)), ("val", (3,)), ("test", (2,))):
        write(tmp_path / split, shards)
    data = opened(tmp_path)
    assert [data.size(split) for split in ("train", "val", "test")] == [8, 3, 2]


def without_captions(folder, *rows, value=None):
    for row in rows:
        path = folder / "metadata" / f"metadata_0{int(row >= 5) + int(row >= 11)}.parquet"
        table = pd.read_parquet(path)
        table.loc[row - (0, 5, 11)[int(path.stem[-1])], "caption"] = value
        table.to_parquet(path)


def test_rows_without_a_caption_are_left_out_and_counted(tmp_path):
    z = torch.nn.functional.normalize(write(tmp_path), dim=2)
    without_captions(tmp_path, 1, 9)
    without_captions(tmp_path, 6, value=" \t ")
    data = opened(tmp_path, faults=FaultPolicy(max_skipped=3))
    own = [0, 2, 3, 4, 5, 7]  # Of the first eight; row 9 is one of the validation split's two.
    assert [data.size(split) for split in ("train", "val", "test")] == [6, 1, 3]
    batch = data.dataset("train")[range(6)]
    assert torch.equal(batch.z_t, z[1, own])
    assert torch.equal(batch.tokens, TOKENIZER([CAPTIONS[row] for row in own]))
    assert data.captions("train") == [CAPTIONS[row] for row in own]
    assert data.captions("val") == [CAPTIONS[8]]
    found = [(fault.place.rpartition("/")[2], fault.kind, fault.detail) for fault in data.log("train").found.values()]
    assert found == [("metadata_00.parquet", "no caption", "rows 1"), ("metadata_01.parquet", "no caption", "rows 1")]
    assert [len(data.log(split)) for split in ("train", "val", "test")] == [2, 1, 0]
    with pytest.raises(InputError, match=r"2 skipped from train \(2 for no caption\): more than the 1 that"):
        opened(tmp_path).dataset("train")
    with pytest.raises(InputError, match=r"metadata_00\.parquet: no caption \(rows 1\); correct it"):
        opened(tmp_path, faults=FaultPolicy("refuse")).dataset("train")
    without_captions(tmp_path, 8)
    with pytest.raises(InputError, match=r"no rows for the val split \(2 skipped from val \(2 for no caption\)\)"):
        opened(tmp_path, faults=FaultPolicy(max_skipped=3)).dataset("val")


def test_what_is_left_out_is_said_in_the_run_folder(tmp_path):
    write(tmp_path / "data")
    without_captions(tmp_path / "data", 1)
    (tmp_path / "run").mkdir()
    data = opened(tmp_path / "data")
    data.trainer = SimpleNamespace(default_root_dir=tmp_path / "run", global_rank=0)
    data.setup("fit")
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert '"no caption"' in line


def test_a_shard_that_lacks_everywhere_counts_as_many_rows_as_the_others_hold(tmp_path):
    write(tmp_path)
    for name in ("img_emb/img_emb_01.npy", "text_emb/text_emb_01.npy", "metadata/metadata_01.parquet"):
        (tmp_path / name).unlink()
    data = opened(tmp_path, faults=FaultPolicy(max_skipped=9), val_size=1, test_size=1)
    assert data.captions("train") == CAPTIONS[:5]
    assert data.log("test").found == {} == data.log("train").found
    data.size("val")  # The rows that follow are its.
    assert data.log("val").summary() == "5 skipped from val (5 for a missing shard)"
    with pytest.raises(InputError, match=r"shard 1: a missing shard; correct it"):
        opened(tmp_path, faults=FaultPolicy("refuse"), val_size=1, test_size=1).dataset("val")


def test_a_caption_that_is_too_long_is_cut_and_said(tmp_path, capsys):
    write(tmp_path)
    without_captions(tmp_path, 1, value="a red circle " * 9)
    tokens = opened(tmp_path).dataset("train")[[1]].tokens
    assert torch.equal(tokens, TOKENIZER(["a red circle a"]))
    assert "has 27 words, the model's context holds 4: it is cut" in capsys.readouterr().err


def test_captions_that_are_not_utf8_are_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    write(tmp_path)
    column = pyarrow.array([b"na\xefve"] * 6).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"caption": column}), tmp_path / "metadata" / "metadata_01.parquet")
    with pytest.raises(InputError, match=r"metadata_01\.parquet: the column 'caption' is not UTF-8"):
        opened(tmp_path).dataset("train")


def test_the_hash_tells_folders_and_splits_apart(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", shards=(5, 5, 2))
    hashes = {opened(tmp_path / name).data_hash(split) for name in ("a", "b") for split in ("train", "val")}
    assert len(hashes) == 4
    assert opened(tmp_path / "a").data_hash("train") in hashes


def remove(name):
    return lambda folder: next(folder.rglob(name)).unlink()


def parquet(**columns):
    return lambda folder: pd.DataFrame(columns).to_parquet(folder / "metadata" / "metadata_01.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("text_emb_01.npy"), r"text_emb: shard 1 is missing there"),
        (remove("img_emb_01.npy"), r"img_emb: shard 1 is missing there"),
        (remove("metadata_02.parquet"), r"metadata: shard 2 is missing there"),
        (
            lambda f: np.save(f / "img_emb" / "img_emb_01.npy", np.zeros((4, 8), "f2")),
            r"4 rows in img_emb, 6 in text_emb, 6",
        ),
        (parquet(caption=["a"]), r"6 rows in img_emb, 6 in text_emb, 1 in metadata of shard 1"),
        (
            lambda f: np.save(f / "img_emb" / "img_emb_01.npy", np.zeros((6, 7), "f2")),
            r"img_emb_01.npy.*\(7,\).*\(8,\)",
        ),
        (
            lambda f: np.save(f / "img_emb" / "img_emb_00.npy", np.zeros((5, 8), "i4")),
            r"int32 of shape \(5, 8\), expected float16 or",
        ),
        (
            lambda f: np.save(f / "img_emb" / "img_emb_00.npy", np.array([{}] * 5, object), allow_pickle=True),
            r"img_emb_00.npy: not a readable array",
        ),
        (parquet(text=["a"] * 6), r"metadata_01.parquet"),
        (parquet(caption=[1] * 6), r"metadata_01.parquet: the column 'caption' holds int64, no text"),
        (
            lambda f: (f / "metadata" / "metadata_01.parquet").write_bytes(b"no parquet"),
            r"metadata_01.parquet: not readable",
        ),
    ],
)
def test_what_does_not_fit_together_is_named_in_one_line(tmp_path, damage, message):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        opened(tmp_path).dataset("train")
    assert "\n" not in str(error.value)


def test_what_is_not_configured_is_asked_for(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match=r"captions, no tokens: set data.init_args.tokenizer"):
        opened(tmp_path, tokenizer=None).dataset("train")
    with pytest.raises(InputError, match=r"13 rows, of which val_size \(2\) and test_size \(11\) leave none"):
        opened(tmp_path, test_size=11).dataset("train")
    with pytest.raises(InputError, match="no token features"):
        opened(tmp_path, token_features=True).dataset("train")


def test_widths_of_pictures_and_texts_must_agree(tmp_path):
    write(tmp_path)
    for number, rows in enumerate((5, 6, 2)):
        np.save(tmp_path / "text_emb" / f"text_emb_{number:02}.npy", np.zeros((rows, 4), "f2"))
    with pytest.raises(InputError, match="img_emb is 8 wide, text_emb 4"):
        opened(tmp_path).dataset("train")


def test_yaml_names_the_tokeniser_of_a_clip(tmp_path, clip_folder):
    from experiments.data.sources import make_data

    write(tmp_path)
    tokenizer = {
        "class_path": "modules.clip.clip_tokenizer.CLIPTokenizer",
        "init_args": {"name_or_folder": str(clip_folder)},
    }
    arguments = {"folder": str(tmp_path), "val_size": 2, "test_size": 3, "tokenizer": tokenizer}
    data, _ = make_data({"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": arguments})
    tokens = data.dataset("val")[[0, 1]].tokens
    assert torch.equal(tokens, WordTokenizer.load(clip_folder)(CAPTIONS[8:10]))
