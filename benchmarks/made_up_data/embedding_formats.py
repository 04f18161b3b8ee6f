"""Embeddings of the shapes data's pairs, made up, in both layouts of folders that hold embeddings alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.made_up_data.formats import Format, Sample
from datamodules.embeddings.folder import EmbeddingsInfo
from datamodules.embeddings.shards import metadata_path, shard_path, write_captions
from datamodules.embeddings.split import Encoded
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.rendered.scenes import VOCABULARY
from modules.clip.word_tokenizer import WordTokenizer

DIM, CONTEXT, SHARD_ROWS = 16, 20, 9
TOKENIZER = WordTokenizer(sorted(VOCABULARY), len(VOCABULARY) + 3, CONTEXT)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """(2, count, DIM) float32 of unit norm."""
    drawn = np.random.default_rng(seed).normal(size=(2, count, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=2, keepdims=True)


def write_embeddings(
    folder: Path, pairs: Sequence[Sample], split: str = "train", replaced: dict[int, int] | None = None
) -> None:
    """What `unclip embed` writes, in several shards; row i holds pair replaced[i] where there is one."""
    captions = [pair.captions[0] for pair in pairs]
    z_i, z_t = torch.from_numpy(vectors(len(pairs)))
    tokens = TOKENIZER(captions)
    writer = EmbeddingsWriter(folder, EmbeddingsInfo("made up", DIM, CONTEXT))
    files = writer.split(split, len(pairs), "made up", SHARD_ROWS, captions=True)
    files.prepare()
    for number in files.missing():
        at = torch.tensor([(replaced or {}).get(row, row) for row in files.ranges[number]])
        shard = files.shard(number)
        files.append(shard, Encoded(z_i[at], z_t[at], tokens[at], [captions[row] for row in at.tolist()], index=at))
        shard.close()
    writer.finish(files)


def write_clip_retrieval(folder: Path, pairs: Sequence[Sample], split: str = "train") -> None:
    """What clip-retrieval writes: float16 and captions in parquet."""
    z = dict(zip(("z_i", "z_t"), vectors(len(pairs)).astype(np.float16), strict=True))
    for number, first in enumerate(range(0, len(pairs), SHARD_ROWS)):
        rows = slice(first, first + SHARD_ROWS)
        for kind, array in z.items():
            path = shard_path(folder / split, kind, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array[rows])
        write_captions(metadata_path(folder / split, number), [pair.captions[0] for pair in pairs[rows]])


_CLASS = "datamodules.embeddings.EmbeddingsDataModule"

EMBEDDINGS: dict[str, Format] = {
    "embeddings": Format(write_embeddings, _CLASS, {"folder": "FOLDER"}),
    "clip-retrieval": Format(write_clip_retrieval, _CLASS, {"folder": "FOLDER"}),
}
"""clip-retrieval's also wants a `tokenizer`."""
