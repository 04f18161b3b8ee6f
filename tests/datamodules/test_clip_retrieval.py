"""Folders as clip-retrieval writes them: float16, several shards, captions in parquet, and nothing said about them."""

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.embeddings import EmbeddingsDataModule
from modules.errors import InputError
from modules.tokenizer import WordTokenizer

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


def test_a_missing_caption_is_an_empty_one(tmp_path):
    write(tmp_path)
    path = tmp_path / "metadata" / "metadata_00.parquet"
    table = pd.read_parquet(path)
    table.loc[1, "caption"] = None
    table.to_parquet(path)
    assert opened(tmp_path).captions("train")[:3] == [CAPTIONS[0], "", CAPTIONS[2]]


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
    from experiments.data import make_data

    write(tmp_path)
    tokenizer = {
        "class_path": "modules.clip_tokenizer.CLIPTokenizer",
        "init_args": {"name_or_folder": str(clip_folder)},
    }
    arguments = {"folder": str(tmp_path), "val_size": 2, "test_size": 3, "tokenizer": tokenizer}
    data, _ = make_data({"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": arguments})
    tokens = data.dataset("val")[[0, 1]].tokens
    assert torch.equal(tokens, WordTokenizer.load(clip_folder)(CAPTIONS[8:10]))
