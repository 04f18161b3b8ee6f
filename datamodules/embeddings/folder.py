"""The folder of CLIP embeddings computed once, and its reader.

    DIR/embeddings.json                     what made them: CLIP, data, dimensions, rows a split
    DIR/train/img_emb/img_emb_0.npy         (n, D) float32, unit norm; and so on, see `datamodules.embeddings.shards`
    DIR/val/..., DIR/test/...
    DIR/empty_caption.safetensors           tokens, z_t and features of "", which stands for a dropped caption

Row i belongs to pair i of the split. A split is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from datamodules.base import SPLITS, check_split
from datamodules.embeddings.checks import check_files, check_norms, check_recorded, warn_of_other_rows
from datamodules.embeddings.shards import (
    METADATA,
    PLACES,
    REPLACED,
    ShardedArray,
    numbered,
    open_array,
    read_captions,
    read_replaced,
    shard_path,
)
from modules.batches import Captions, EmbeddingBatch
from modules.errors import InputError
from modules.untrusted.reading import printable, read_json, reason, within
from modules.untrusted.weights import read_weights

MANIFEST = "embeddings.json"
EMPTY = "empty_caption.safetensors"
VERSION = 1
MAX_MANIFEST = 2**26
"""Bytes of it: a checksum a file, 10,000 files a split, take 1 MB."""
_AGAIN = "run `unclip embed` again"


class Rows(Protocol):
    """Anything that gives rows by their numbers: a mapped file, several, or one that computes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray: ...


@dataclass(frozen=True)
class EmbeddingsInfo:
    """The content of embeddings.json.

    Attributes:
        clip_fingerprint: of the CLIP that made them: a hash of its weights, and of its vocabulary if it has its own.
        dim: D, width of z_i and z_t.
        context: L, tokens a caption.
        sizes: split -> rows; the splits that are complete.
        data_hash: split -> hash of the data that were embedded.
        source: further facts for a person (the data's class, the image size, the CLIP's path).
        normalised: whether the embeddings have unit norm; not so for a CLIP whose own are used ("raw").
        features: W, width of the features of every token; None where there are none.
        settings: split -> further settings that its numbers depend on: image_size, precision, draft_margin.
        replaced: split -> how many rows hold another pair's embeddings because their own pair could not be read.
            `EmbeddingsFolder.replaced` says which.
        checksums: split -> SHA-256 of each of its files; none in folders of earlier versions.
        version: of this description. Since 1 every split has checksums; 0 are folders of earlier versions.
    """

    clip_fingerprint: str
    dim: int
    context: int
    sizes: dict[str, int] = field(default_factory=dict)
    data_hash: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    normalised: bool = True
    features: int | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, dict[str, str]] = field(default_factory=dict)
    version: int = 0


class EmbeddingRows(Dataset[EmbeddingBatch]):
    """The embeddings of one split, memory-mapped; a list of indices gives an EmbeddingBatch.

    Args:
        z_i, z_t: (n, D) rows; float16 becomes float32.
        tokens: (n, L) rows.
        features: (n, L, W) rows, or None.
        normalised: whether z_i and z_t have unit norm in the files; if not, they are normalised when they are read.
        chosen: numbers of the rows to give, in order; None for all.
        replaced: numbers of rows that hold another pair's embeddings.
    """

    def __init__(
        self,
        z_i: Rows,
        z_t: Rows,
        tokens: Rows,
        features: Rows | None = None,
        normalised: bool = True,
        chosen: range | np.ndarray | None = None,
        replaced: Iterable[int] = (),
    ) -> None:
        self.z_i, self.z_t, self.tokens, self.features, self.normalised = z_i, z_t, tokens, features, normalised
        self.chosen = range(len(z_i)) if chosen is None else chosen
        self.replaced = frozenset(replaced)

    def __len__(self) -> int:
        return len(self.chosen)

    def without(self, rows: Iterable[int]) -> EmbeddingRows:
        """The same rows without some, which are given by their numbers."""
        left = np.setdiff1d(np.asarray(self.chosen, np.int64), np.fromiter(rows, np.int64))
        return EmbeddingRows(self.z_i, self.z_t, self.tokens, self.features, self.normalised, left, self.replaced)

    def __getitem__(self, indices: int | Sequence[int]) -> EmbeddingBatch:
        positions = [indices] if isinstance(indices, int) else list(indices)
        every = self.chosen == range(len(self.z_i)) if isinstance(self.chosen, range) else False
        rows = positions if every else [int(self.chosen[position]) for position in positions]
        z_i, z_t = (torch.from_numpy(array[rows]).float() for array in (self.z_i, self.z_t))
        if not self.normalised:
            z_i, z_t = normalize(z_i, dim=1), normalize(z_t, dim=1)
        features = None if self.features is None else torch.from_numpy(self.features[rows]).float()
        index = torch.as_tensor(positions, dtype=torch.int64)
        return EmbeddingBatch(z_i, z_t, torch.from_numpy(self.tokens[rows]), index, features)

    def __getitems__(self, indices: Sequence[int]) -> EmbeddingBatch:
        return self[indices]


class EmbeddingsFolder:
    """An opened embeddings folder."""

    def __init__(self, path: Path, info: EmbeddingsInfo) -> None:
        self.path, self.info = path, info

    def rows(
        self, split: str, size: int | None = None, data_hash: str | None = None, token_features: bool = False
    ) -> EmbeddingRows:
        """The embeddings of a split.

        Args:
            split: "train", "val" or "test".
            size: number of pairs that they must belong to; None accepts any.
            data_hash: hash of the data that they must have been computed from; None accepts any.
            token_features: whether the batches shall have the features of every token.

        Raises:
            InputError: no such split, other data, another number of rows, or arrays that differ from embeddings.json.
        """
        again = "run `unclip embed` on this data, or name another folder"
        found = self.info.sizes.get(check_split(split))
        if found is None:
            there = ", ".join(self.info.sizes) or "none"
            raise InputError(f"{self.path}: no embeddings of the {split} split (there: {there}); {again}")
        if size is not None and size != found:
            raise InputError(f"{self.path}: {found} rows in {split}, but the data have {size} pairs there; {again}")
        theirs = self.info.data_hash.get(split)
        if data_hash is not None and data_hash != theirs:
            raise InputError(
                f"{self.path}: the {split} embeddings belong to other data (hash {theirs}) "
                f"than these (hash {data_hash}); {again}"
            )
        if token_features and self.info.features is None:
            raise InputError(f"{self.path}: holds no token features; run `unclip embed --token-features`")
        z_i, z_t = (self._array(split, kind, "float32", (self.info.dim,), found) for kind in ("z_i", "z_t"))
        tokens = self._array(split, "tokens", "int64", (self.info.context,), found)
        features = None
        if token_features:
            features = self._array(split, "features", "float16", (self.info.context, self.info.features or 0), found)
        replaced = self.replaced(split)[:, 0].tolist()
        folder, kinds = self.path / split, ("z_i", "z_t", "tokens", *(("features",) if token_features else ()))
        recorded = self.info.checksums.get(split, {})
        check_recorded(folder, recorded, tuple(PLACES[kind] for kind in kinds), required=self.info.version > 0)
        check_files(folder, recorded, (*(PLACES[kind] for kind in kinds), REPLACED))
        for kind, rows in (("z_i", z_i), ("z_t", z_t)):
            check_norms(rows, folder / PLACES[kind], self.info.normalised)
        if not recorded:
            warn_of_other_rows(z_i, z_t, folder)
        return EmbeddingRows(z_i, z_t, tokens, features, replaced=replaced)

    def empty_caption(self) -> Captions:
        """The caption "" as the CLIP gives it: one row, with features where the folder has them.

        Raises:
            InputError: the folder has none, or a damaged one.
        """
        path, info = self.path / EMPTY, self.info
        again = "run `unclip embed` as before, which adds it and keeps what is there"
        if not path.is_file():
            raise InputError(f"{path} is missing, which stands for a dropped caption: {again}")
        try:
            tensors, _ = read_weights(path)
            found = Captions(tensors["tokens"], tensors["z_t"], tensors.get("features"))
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} is damaged ({reason(error)}): remove it, and {again}") from error
        shapes: list[tuple[int, ...]] = [tuple(found.tokens.shape), tuple(found.z_t.shape)]
        wanted: list[tuple[int, ...]] = [(1, info.context), (1, info.dim)]
        if info.features is not None:
            shapes.append(() if found.features is None else tuple(found.features.shape))
            wanted.append((1, info.context, info.features))
        if shapes != wanted:
            raise InputError(f"{path} is of other embeddings ({shapes}, not {wanted}): remove it, and {again}")
        return found

    def replaced(self, split: str) -> np.ndarray:
        """(K, 2) int64: rows of a split that hold the embeddings of another pair, and which pair's.

        Raises:
            InputError: the files that say so are damaged, or not as many as embeddings.json says.
        """
        expected = self.info.replaced.get(check_split(split), 0)
        found = read_replaced(self.path / split, self.info.sizes.get(split, 0))
        if len(found) != expected:
            raise InputError(
                f"{self.path / split / REPLACED}: {len(found)} rows, but {MANIFEST} says {expected}; {_AGAIN}"
            )
        return found

    def captions(self, split: str) -> list[str]:
        """The captions of a split's rows, where the folder holds them.

        Raises:
            InputError: the folder holds no captions, or they can't be read.
        """
        paths = numbered(self.path / check_split(split), METADATA, ".parquet")
        if not paths:
            raise InputError(f"{self.path}: holds tokens, no captions; use the data that they were made from")
        return [c or "" for path in paths.values() for c in read_captions(within(self.path, path)).to_pylist()]

    def _array(self, split: str, kind: str, dtype: str, shape: tuple[int, ...], size: int) -> ShardedArray:
        folder = self.path / split
        found = list(numbered(folder, PLACES[kind]).values()) or [shard_path(folder, kind, 0)]
        array = open_array([within(self.path, path) for path in found], [dtype], shape, _AGAIN)
        if len(array) != size:
            many = f"{len(found)} shard{'s' * (len(found) > 1)}"
            raise InputError(
                f"{found[0].parent}: {len(array)} rows in {many} ({', '.join(path.name for path in found[:3])}), "
                f"but {MANIFEST} says {size}; {_AGAIN}"
            )
        return array


def check_info(info: EmbeddingsInfo) -> None:
    """Refuse an embeddings.json whose values are of other types than `EmbeddingsWriter` writes.

    Raises:
        TypeError, ValueError: names the key.
    """
    if not isinstance(info.clip_fingerprint, str) or type(info.normalised) is not bool:
        raise TypeError("clip_fingerprint is text, normalised true or false")
    if info.version not in (0, VERSION) or type(info.version) is not int:
        raise ValueError(f"version is {info.version!r}; there is none above {VERSION}")
    for name in ("dim", "context", *(() if info.features is None else ("features",))):
        value = getattr(info, name)
        if type(value) is not int or not 1 <= value < 2**24:
            raise ValueError(f"{name} is {value!r}")
    numbers = (*info.sizes.values(), *info.replaced.values())
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError("sizes and replaced are numbers of rows")
    if set(info.sizes) - set(SPLITS):
        raise ValueError("sizes are of train, val and test")
    if not all(isinstance(text, str) for text in info.data_hash.values()):
        raise TypeError("data_hash is text")
    for files in info.checksums.values():
        for file, digest in files.items():
            if not isinstance(digest, str) or file.startswith("/") or ".." in file.split("/"):
                raise ValueError(f"checksums names {printable(file)!r}")


def open_embeddings(folder: str | Path) -> EmbeddingsFolder:
    """Opens a folder written by `EmbeddingsWriter`.

    Raises:
        InputError: no folder, or no valid embeddings.json in it.
    """
    path = Path(folder).expanduser()
    manifest = path / MANIFEST
    try:
        info = EmbeddingsInfo(**read_json(manifest, MAX_MANIFEST))
        check_info(info)
    except OSError as error:
        raise InputError(f"{manifest}: {error.strerror}; make the folder with `unclip embed`") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{manifest}: not a description of embeddings ({error}); {_AGAIN}") from error
    return EmbeddingsFolder(path, info)
