"""CLIP embeddings computed once: the folder, its writer and reader, and a DataModule that trains from it alone.

Folders that clip-retrieval wrote, which have no embeddings.json, are read by the DataModule as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.base import at_least, check_split
from datamodules.embeddings import clip_retrieval
from datamodules.embeddings.folder import MANIFEST, EmbeddingRows, EmbeddingsFolder, EmbeddingsInfo, open_embeddings
from datamodules.embeddings.shards import REPLACED
from datamodules.fault_counting import FaultCounting
from datamodules.faults import Fault, FaultPolicy
from modules.batches import Captions
from modules.errors import InputError

Tokenizer = Callable[[list[str]], Any]
"""Captions -> (B, L) int64 tokens. (Typed Any: for a Tensor, LightningCLI would want a Tensor class in the YAML.)"""


class EmbeddingsDataModule(FaultCounting):
    """Batches of cached embeddings, without images and without a CLIP in memory: what a prior trains on.

    Two kinds of rows are left out and counted: rows that hold another pair's embeddings because their own pair could
    not be read, and rows of clip-retrieval's without a caption.

    Args:
        folder: written by `unclip embed`, or by clip-retrieval.
        batch_size: rows a batch and process, in training and in evaluation.
        seed: of the training order.
        num_workers: loader processes.
        token_features: whether the batches hold the CLIP's features of every caption token, for a prior with
            `feature_dim`; the folder must have them (`unclip embed --token-features`).
        tokenizer: for a folder of clip-retrieval, its CLIP's tokenizer, such as
            {class_path: modules.clip.clip_tokenizer.CLIPTokenizer, init_args: {name_or_folder: ViT-L-14}}. A folder of
            ours holds tokens, and needs none.
        val_size, test_size: rows of the validation and test splits, the last ones of a clip-retrieval folder that has
            no splits; a folder of ours says which rows are which.
        faults: what happens with rows that cannot be used.

    Raises:
        InputError: no such folder, one that is damaged, or more faults than allowed.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        token_features: bool = False,
        tokenizer: Tokenizer | None = None,
        val_size: int = 1000,
        test_size: int = 1000,
        faults: FaultPolicy = FaultPolicy(),
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        self.folder, self.token_features, self.tokenizer = folder, token_features, tokenizer
        self.held_out = {"val": at_least(1, "val_size", val_size), "test": at_least(1, "test_size", test_size)}
        self.faults = faults
        self._opened: EmbeddingsFolder | None = None
        self._rows: dict[str, EmbeddingRows] = {}
        self._retrieved: dict[str, clip_retrieval.Found] = {}

    @property
    def info(self) -> EmbeddingsInfo:
        """The folder's embeddings.json: the CLIP's fingerprint, dim, context, rows, hashes of the data."""
        return self._open().info

    @property
    def clip_fingerprint(self) -> str | None:
        return None if self._foreign else self.info.clip_fingerprint

    @property
    def embedding_dim(self) -> int | None:
        """Width of the embeddings; None for clip-retrieval's, which do not say before they are read."""
        return None if self._foreign else self.info.dim

    def empty_caption(self) -> Captions:
        """The caption "" as the CLIP gives it, one row.

        Raises:
            InputError: the folder has none.
        """
        if self._foreign:
            raise InputError(f"{self.folder}: clip-retrieval writes no empty caption; use `unclip embed`")
        return self._open().empty_caption()

    def dataset(self, split: str) -> EmbeddingRows:
        if check_split(split) not in self._rows:
            self._rows[split] = self._read(split)
        return self._rows[split]

    def data_hash(self, split: str) -> str:
        if self._foreign:
            found = self._found(split)
            return clip_retrieval.identity(Path(self.folder).expanduser(), [split, found.first, found.count])
        return self.info.data_hash[check_split(split)]

    def captions(self, split: str) -> list[str]:
        rows = self.dataset(split).chosen
        if self._foreign:
            return self._found(split).tokens.captions(rows)  # type: ignore[arg-type]
        texts = self._open().captions(split)
        return [texts[row] for row in rows]

    @property
    def _foreign(self) -> bool:
        path = Path(self.folder).expanduser()
        return not (path / MANIFEST).exists() and clip_retrieval.is_folder(path)

    def _read(self, split: str) -> EmbeddingRows:
        rows, faults = self._ours(split) if not self._foreign else self._theirs(split)
        log = self.log(split)
        log.pairs = len(rows) + sum(fault.pairs for fault in faults)
        for fault in faults:
            log.add(fault)
        if not len(rows):
            raise InputError(f"{self.folder}: no rows for the {split} split ({log.summary()})")
        return rows

    def _ours(self, split: str) -> tuple[EmbeddingRows, list[Fault]]:
        folder = self._open()
        rows = folder.rows(split, token_features=self.token_features)
        if not rows.replaced:
            return rows, []
        place, count = str(folder.path / split / REPLACED), len(rows.replaced)
        return rows.without(rows.replaced), [Fault(place, "a row that holds another pair", pairs=count)]

    def _theirs(self, split: str) -> tuple[EmbeddingRows, list[Fault]]:
        found = self._found(split)
        return EmbeddingRows(found.z_i, found.z_t, found.tokens, None, False, found.chosen), found.faults

    def _found(self, split: str) -> clip_retrieval.Found:
        if split not in self._retrieved:
            if self.token_features:
                raise InputError(f"{self.folder}: clip-retrieval writes no token features; use `unclip embed`")
            if self.tokenizer is None:
                raise InputError(
                    f"{self.folder}: clip-retrieval writes captions, no tokens: set data.init_args.tokenizer, as in "
                    "{class_path: modules.clip.clip_tokenizer.CLIPTokenizer, init_args: {name_or_folder: ViT-L-14}}"
                )
            path = Path(self.folder).expanduser()
            self._retrieved[split] = clip_retrieval.read(path, check_split(split), self.held_out, self.tokenizer)
        return self._retrieved[split]

    def _open(self) -> EmbeddingsFolder:
        # Not in the constructor: `--print_config` and a dry run must work before the folder exists.
        if self._opened is None:
            self._opened = open_embeddings(self.folder)
        return self._opened
