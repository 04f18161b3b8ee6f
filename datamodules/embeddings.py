"""CLIP embeddings computed once: the folder, its writer and reader, and a DataModule that trains from it alone.

    DIR/embeddings.json                     what made them: CLIP, data, dimensions, rows a split
    DIR/train/img_emb/img_emb_0.npy         (n, D) float32, unit norm
    DIR/train/text_emb/text_emb_0.npy       (n, D) float32, unit norm
    DIR/train/tokens/tokens_0.npy           (n, L) int64, 0 = padding
    DIR/val/..., DIR/test/...

Row i belongs to pair i of the split. A split is there whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.cache import MappedArray
from datamodules.loading import SplitDataModule, check_split
from modules.batches import EmbeddingBatch
from modules.errors import InputError

MANIFEST = "embeddings.json"
_FILES = {"z_i": "img_emb/img_emb_0.npy", "z_t": "text_emb/text_emb_0.npy", "tokens": "tokens/tokens_0.npy"}


@dataclass(frozen=True)
class EmbeddingsInfo:
    """What an embeddings folder says about itself.

    Attributes:
        clip_fingerprint: hash of the weights of the CLIP that made them.
        dim: D, width of z_i and z_t.
        context: L, tokens a caption.
        sizes: split -> rows; the splits that are complete.
        data_hash: split -> hash of the data that were embedded.
        source: what a person wants to know beside (the data's class, the image size, the CLIP's path).
        normalised: whether the embeddings have unit norm; always so.
    """

    clip_fingerprint: str
    dim: int
    context: int
    sizes: dict[str, int] = field(default_factory=dict)
    data_hash: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    normalised: bool = True


class EmbeddingRows(Dataset[EmbeddingBatch]):
    """The embeddings of one split, memory-mapped; a list of indices gives an EmbeddingBatch."""

    def __init__(self, z_i: MappedArray, z_t: MappedArray, tokens: MappedArray) -> None:
        self.z_i, self.z_t, self.tokens = z_i, z_t, tokens

    def __len__(self) -> int:
        return len(self.z_i)

    def __getitem__(self, indices: int | Sequence[int]) -> EmbeddingBatch:
        rows = [indices] if isinstance(indices, int) else list(indices)
        z_i, z_t, tokens = (torch.from_numpy(array[rows]) for array in (self.z_i, self.z_t, self.tokens))
        return EmbeddingBatch(z_i, z_t, tokens, torch.as_tensor(rows, dtype=torch.int64))

    def __getitems__(self, indices: Sequence[int]) -> EmbeddingBatch:
        return self[indices]


class EmbeddingsFolder:
    """An opened embeddings folder."""

    def __init__(self, path: Path, info: EmbeddingsInfo) -> None:
        self.path, self.info = path, info

    def rows(self, split: str, size: int | None = None, data_hash: str | None = None) -> EmbeddingRows:
        """The embeddings of a split.

        Args:
            split: "train", "val" or "test".
            size: number of pairs that they must belong to; None accepts any.
            data_hash: hash of the data that they must have been computed from; None accepts any.

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
        z_i, z_t = (self._array(split, name, np.float32, (found, self.info.dim)) for name in ("z_i", "z_t"))
        return EmbeddingRows(z_i, z_t, self._array(split, "tokens", np.int64, (found, self.info.context)))

    def _array(self, split: str, name: str, dtype: Any, shape: tuple[int, int]) -> MappedArray:
        mapped = MappedArray(self.path / split / _FILES[name])
        try:
            array = mapped.array
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{mapped.path}: not a readable array ({error}); run `unclip embed` again") from error
        if array.dtype != dtype or array.shape != shape:
            raise InputError(
                f"{mapped.path}: {array.dtype} of shape {array.shape}, but {MANIFEST} says {np.dtype(dtype)} of shape "
                f"{shape}; run `unclip embed` again"
            )
        return mapped


def open_embeddings(folder: str | Path) -> EmbeddingsFolder:
    """Opens a folder written by `EmbeddingsWriter`.

    Raises:
        InputError: no folder, or no valid embeddings.json in it.
    """
    path = Path(folder).expanduser()
    manifest = path / MANIFEST
    try:
        info = EmbeddingsInfo(**json.loads(manifest.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{manifest}: {error.strerror}; make the folder with `unclip embed`") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{manifest}: not a description of embeddings ({error}); run `unclip embed` again") from error
    if not info.normalised:
        raise InputError(f"{manifest}: the embeddings are not normalised; run `unclip embed` again")
    return EmbeddingsFolder(path, info)


_OTHER = "name another folder or pass --overwrite"


class EmbeddingsWriter:
    """Writes an embeddings folder, split by split; an interrupted split leaves nothing behind that a reader sees.

    Args:
        folder: made when missing; splits that it holds already are kept.
        info: what the folder must be about; its `sizes` and `data_hash` follow from what is written.
        overwrite: begin anew in a folder that holds embeddings of another CLIP.

    Raises:
        InputError: the folder holds embeddings of another CLIP or width, or can't be written.
    """

    def __init__(self, folder: str | Path, info: EmbeddingsInfo, overwrite: bool = False) -> None:
        self.path = Path(folder).expanduser()
        self.info = info
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: name another folder")
        self.path.mkdir(parents=True, exist_ok=True)  # Now, and not after minutes of computing.
        if (self.path / MANIFEST).exists():
            there = open_embeddings(self.path).info
            changed = [
                f"{key} {getattr(there, key)}, not {getattr(info, key)}"
                for key in ("clip_fingerprint", "dim", "context")
                if getattr(there, key) != getattr(info, key)
            ]
            if changed and not overwrite:
                raise InputError(f"{self.path}: holds embeddings with {'; '.join(changed)}; {_OTHER}")
            if not changed:
                self.info = replace(info, sizes=there.sizes, data_hash=there.data_hash)

    def holds(self, split: str, size: int, data_hash: str, overwrite: bool = False) -> bool:
        """Whether the split is there, complete and of these data.

        Raises:
            InputError: it is there with other data, and `overwrite` is off.
        """
        found = (self.info.sizes.get(check_split(split)), self.info.data_hash.get(split))
        if found == (size, data_hash):
            return True
        if found[0] is not None and not overwrite:
            theirs = f"{found[0]} rows, hash {found[1]}"
            raise InputError(
                f"{self.path}: holds {split} embeddings of other data ({theirs}) than these ({size} rows, "
                f"hash {data_hash}); {_OTHER}"
            )
        return False

    def write(self, split: str, size: int, data_hash: str, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Writes one split.

        Args:
            split: "train", "val" or "test".
            size: n, number of rows.
            data_hash: of the data that were embedded.
            batches: (z_i (B, D), z_t (B, D), tokens (B, L)), in the order of the index, n rows in all.

        Raises:
            ValueError: another number of rows, another width, or embeddings that are not of unit norm.
            OSError: the folder can't be written.
        """
        partial = self.path / f".{check_split(split)}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._fill(partial, size, batches)
            if (self.path / split).exists():
                self._record(split, None, None)  # First, so that old words never stand beside new arrays.
                shutil.rmtree(self.path / split)
            partial.replace(self.path / split)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._record(split, size, data_hash)

    def _record(self, split: str, size: int | None, data_hash: str | None) -> None:
        sizes = {**self.info.sizes, split: size}
        hashes = {**self.info.data_hash, split: data_hash}
        self.info = replace(
            self.info,
            sizes={name: n for name, n in sizes.items() if n is not None},
            data_hash={name: text for name, text in hashes.items() if text is not None},
        )
        temporary = self.path / f".{MANIFEST}.tmp"
        temporary.write_text(json.dumps(asdict(self.info), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path / MANIFEST)

    def _fill(self, folder: Path, size: int, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        widths = (self.info.dim, self.info.dim, self.info.context)
        files = []
        for (name, place), width in zip(_FILES.items(), widths, strict=True):
            path = folder / place
            path.parent.mkdir(parents=True)
            files.append(path.open("wb"))
            descr = "<i8" if name == "tokens" else "<f4"
            header = {"descr": descr, "fortran_order": False, "shape": (size, width)}
            np.lib.format.write_array_header_1_0(files[-1], header)
        rows = 0
        try:
            for z_i, z_t, tokens in batches:
                _check_batch(z_i, z_t, tokens, widths)
                rows += len(z_i)
                for file, tensor, dtype in zip(files, (z_i, z_t, tokens), ("<f4", "<f4", "<i8"), strict=True):
                    file.write(np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype).data)
        finally:
            for file in files:
                file.close()
        if rows != size:
            raise ValueError(f"{rows} rows were given for a split of {size}")


class EmbeddingsDataModule(SplitDataModule):
    """Batches of cached embeddings, without images and without a CLIP in memory: what a prior trains on.

    Args:
        folder: written by `unclip embed`.
        batch_size: rows a batch and process, in training and in evaluation.
        seed: of the training order.
        num_workers: loader processes.

    Raises:
        InputError: no such folder, or one that is damaged.
    """

    def __init__(self, folder: str, batch_size: int = 64, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(batch_size, seed, num_workers)
        self.folder = folder
        self._opened: EmbeddingsFolder | None = None
        self._rows: dict[str, EmbeddingRows] = {}

    @property
    def info(self) -> EmbeddingsInfo:
        """What the folder says about itself: the CLIP's fingerprint, dim, context, rows, hashes of the data."""
        return self._open().info

    def dataset(self, split: str) -> EmbeddingRows:
        if split not in self._rows:
            self._rows[split] = self._open().rows(split)
        return self._rows[split]

    def data_hash(self, split: str) -> str:
        return self.info.data_hash[check_split(split)]

    def captions(self, split: str) -> list[str]:
        raise InputError(f"{self.folder}: embeddings hold tokens, no captions; use the data that they were made from")

    def _open(self) -> EmbeddingsFolder:
        # Not in the constructor: `--print_config` and a dry run must work before the folder exists.
        if self._opened is None:
            self._opened = open_embeddings(self.folder)
        return self._opened


def _check_batch(z_i: Tensor, z_t: Tensor, tokens: Tensor, widths: tuple[int, int, int]) -> None:
    for tensor, width in zip((z_i, z_t, tokens), widths, strict=True):
        if tensor.ndim != 2 or tensor.shape[1] != width:
            raise ValueError(f"expected (B, {width}), got {tuple(tensor.shape)}")
    for z in (z_i, z_t):
        if not torch.allclose(z.float().norm(dim=1), torch.ones(len(z), device=z.device), atol=1e-3):
            raise ValueError("the embeddings are not of unit norm")
