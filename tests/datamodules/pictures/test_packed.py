"""Packed pairs: no Python object a pair, shared with processes that are spawned, and hashed as ever."""

import hashlib
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch.multiprocessing  # noqa: F401 - it teaches ForkingPickler to share tensors
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.made_up_data.formats import FORMATS, samples
from datamodules.captions import CaptionConfig
from datamodules.pictures.caption_table import Captions, CaptionTable
from datamodules.pictures.module import SplitConfig
from datamodules.pictures.packed import BLOCK, Chosen, Numbers, PackedStrings
from datamodules.pictures.sources import Entry, PairTable

COUNT = 3000


def test_strings_of_many_blocks_are_those_strings():
    strings = [f"{k}" * (k % 7) for k in range(3 * BLOCK + 5)]
    packed = PackedStrings(strings)
    assert list(packed) == strings
    assert [packed[k] for k in (0, BLOCK - 1, BLOCK, 3 * BLOCK + 4)] == [
        strings[k] for k in (0, BLOCK - 1, BLOCK, 3 * BLOCK + 4)
    ]
    bounds = packed.bounds(BLOCK - 2, 2 * BLOCK + 1)
    assert packed.data[bounds[0] : bounds[-1]].tobytes().decode() == "".join(strings[BLOCK - 2 : 2 * BLOCK + 1])
    assert list(np.diff(bounds)) == [len(text) for text in strings[BLOCK - 2 : 2 * BLOCK + 1]]
    chosen = Chosen(packed, Numbers(np.array([3, BLOCK + 1], np.int32)))
    assert list(chosen) == [strings[3], strings[BLOCK + 1]] == chosen[:]


def plain_digest(keys, pairs):
    """The digest by its definition, from whole arrays."""
    names = sorted({source for captions in pairs for source, _ in captions})
    texts = [text.encode() for captions in pairs for _, text in captions]
    arrays = [
        np.frombuffer(b"".join(texts), np.uint8),
        np.cumsum([0, *map(len, texts)], dtype=np.int64),
        np.array([names.index(source) for captions in pairs for source, _ in captions], np.int64),
        np.cumsum([0, *map(len, pairs)], dtype=np.int64),
    ]
    hashed = hashlib.sha256(b"".join(key.encode() + b"\0" for key in keys))
    for part in arrays:
        hashed.update(part.tobytes())
    return hashed.hexdigest()[:16]


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.sampled_from("bac"), st.text("aé犬", max_size=3)), min_size=1), st.booleans()),
        min_size=1,
    )
)
def test_the_digest_of_some_pairs_is_that_of_their_own_arrays(drawn):
    pairs = [captions for captions, _ in drawn]
    rows = np.array([k for k, (_, kept) in enumerate(drawn) if kept] or [0])
    table = CaptionTable(pairs)
    captions = Captions(table, CaptionConfig(), Numbers.rows(rows, len(pairs)))
    chosen = [pairs[k] for k in rows]
    keys = [f"k{k}" for k in rows]
    assert captions.digest(keys) == plain_digest(keys, chosen)
    assert list(captions.texts) == [text for own in chosen for _, text in own]
    assert captions.all_first() == [own[0][1] for own in chosen]
    assert len(captions.texts) == sum(map(len, chosen))


@pytest.mark.parametrize("name", ["text files", "metadata.jsonl", "shards", "COCO", "Hugging Face"])
def test_a_pair_takes_few_bytes_beside_its_texts(tmp_path, name):
    count = 400
    FORMATS[name].write(tmp_path, samples(count, 8))
    data = FORMATS[name].open(tmp_path, splits=SplitConfig(val_share=0.25, test_share=0.0))
    pairs = data.pairs("train")
    listed = data._listed[data.sources["train"]]
    reader = listed.reader
    if name == "Hugging Face":  # The rows are the library's: files that it maps into memory.
        reader = reader.keys
    size = len(pickle.dumps((pairs.captions, pairs.keys, pairs.rows, listed.table, reader)))
    whole = listed.table
    text = len("".join(whole.captions.texts).encode()) + len("".join(whole.keys).encode())
    several = len(whole.captions.texts) / len(whole.captions)
    assert len(pairs) < len(whole.captions)
    # Ends of keys and texts, the pairs' ends where there are several captions, the place, the row; 6 kB for classes.
    assert (size - text - 6000) / len(whole.captions) < 4 + 4 * several + 8 + 20 + 4 + 2


def test_processes_that_are_spawned_share_the_memory():
    entries = [Entry(f"key {k}", [("a", f"caption {k}")]) for k in range(COUNT)]
    table = PairTable.of(entries)
    assert len(pickle.dumps(table)) > 20 * COUNT
    sent = bytes(ForkingPickler.dumps(table))
    assert len(sent) < 4000
    received = pickle.loads(sent)
    assert list(received.keys) == [entry.key for entry in entries]
    assert received.captions.texts[COUNT - 1] == f"caption {COUNT - 1}"
