"""webdataset shards, as img2dataset writes them: .tar files of jpg, png or webp with txt and json beside."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from datamodules.base import at_least
from datamodules.captions import GROUND_TRUTH, CaptionConfig
from datamodules.faults import Fault, FaultPolicy
from datamodules.pictures.caption_table import CaptionTable
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import Listed, PictureDataModule, SplitConfig
from datamodules.pictures.packed import Numbers, PackedStrings, Packer
from datamodules.pictures.shards import NotAShard, Places, ShardKeys, ShardReader, index_shard, windowed
from datamodules.pictures.sources import PairTable
from datamodules.rendered.cache import cached_json, digest
from modules.errors import InputError
from modules.untrusted.reading import MAX_CONFIG, open_regular

VERSION = 3
"""Of what an index holds; goes into the names of cached ones."""


class WebDatasetDataModule(PictureDataModule):
    """Pairs of a picture and a caption from webdataset shards.

    The shards are indexed once (headers and captions; kept in `cache_dir`), so the number of pairs is known, any pair
    can be read at any time, and the order is that of all other data: shuffled over everything, every pair exactly once
    a pass whatever the number of devices, loader processes and pairs a shard, and the same after a resume. A stream
    of whole shards, split by node and worker, would give none of the three where shards differ in size.

    Args:
        train: the training shards: a path, a folder, a glob, a brace range (`data/{00000..00127}.tar`), a URL of any
            file system that fsspec knows, or several of them parted by `::`.
        val: those of the validation pairs; null holds `splits.val_share` of the training pairs out.
        test: those of the test pairs; null in the same way.
        image_size: side of the images in pixels.
        batch_size: pairs a batch and process, in training and in evaluation.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: folder of the indices and of copies of remote shards; null indexes anew in every run, and reads
            pictures of remote shards one by one over the network.
        seed: of the training order and of what is drawn anew in every pass.
        num_workers: loader processes.
        shuffle_shards: shuffle the shards, and pairs only within so many of them at a time, for disks and networks that
            are slow at reading here and there; null shuffles all pairs.
        captions: columns (extensions, or keys of the json), shares and length of captions; by default `txt`.
        picture: crop, flip, decoding.
        splits: sizes and shares.
        faults: what happens with pairs and shards that cannot be used.

    Raises:
        InputError: the package `webdataset` is missing, no such shards, more faults than allowed.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        image_size: int = 64,
        batch_size: int = 64,
        embeddings: str | None = None,
        cache_dir: str | None = "runs/cache",
        seed: int = 0,
        num_workers: int = 0,
        shuffle_shards: int | None = None,
        captions: CaptionConfig = CaptionConfig(),
        picture: PictureConfig = PictureConfig(),
        splits: SplitConfig = SplitConfig(),
        faults: FaultPolicy = FaultPolicy(),
    ) -> None:
        sources = {"train": train, "val": val, "test": test}
        super().__init__(
            sources, image_size, batch_size, embeddings, cache_dir, seed, num_workers, captions, picture, splits, faults
        )
        self.shuffle_shards = None if shuffle_shards is None else at_least(1, "shuffle_shards", shuffle_shards)

    def list_pairs(self, source: str) -> Listed:
        shards = expand(source)
        keys, places = Packer(), Places(array("i"), array("q"), array("q"))
        faults: list[Fault] = []
        broken: list[tuple[Fault, int]] = []
        paths: list[str] = []
        unused: Counter[str] = Counter()

        def captions() -> Iterator[list[tuple[str, str]]]:
            for number, url in enumerate(shards):
                path, found = self._indexed(url)
                paths.append(path)
                if isinstance(found, Fault):
                    broken.append((found, 0))
                    continue
                for key, offset, size, texts in found["pairs"]:
                    keys.add(key)
                    places.add(number, offset, size)
                    yield [(label, text) for label, text in texts]
                faults.extend(Fault(*fault) for fault in found["faults"])
                unused.update(found["unused"])
                if not found["whole"]:
                    count = len(found["pairs"])
                    broken.append((Fault(url, "a shard that is cut off", f"{count} pairs are before the cut"), count))

        table = CaptionTable(captions())
        faults += _estimated(broken, len(table), len(shards))
        reader = ShardReader(paths, PackedStrings(keys), *map(Numbers, places))
        # Keys are unique within a shard only.
        named = ShardKeys([Path(url).name for url in shards], reader.keys, reader.shards_of)
        return Listed(PairTable(named, table), faults, reader, unused)

    def _indexed(self, url: str) -> tuple[str, Any]:
        """Where to read a shard, and its index or the fault that it has none."""
        columns = self.caption_config.columns or {GROUND_TRUTH: "txt"}
        max_words = self.caption_config.max_words
        try:
            path, version = self._local(url)
            make = partial(_index, path, url, columns, max_words)
            if self.cache_dir is None:
                return path, make()
            key = [VERSION, url, version, columns, max_words]
            return path, cached_json(self.cache_dir / "shards", Path(url).stem, key, make)
        except InputError:
            raise
        except FileNotFoundError:
            return url, Fault(url, "a missing shard")
        except NotAShard as error:
            return url, Fault(url, "a shard that cannot be read", str(error))
        except ImportError as error:
            raise InputError(f"{url}: {error}; install what fsspec needs for such URLs") from error
        except Exception as error:  # Each file system has its own.
            detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return url, Fault(url, "a shard that cannot be read", detail)

    def _local(self, url: str) -> tuple[str, Any]:
        """The path of a shard, a remote one's copy if there is a cache, and what changes with its content."""
        if "://" not in url:
            status = os.stat(url)  # noqa: PTH116 - for the same errors as everywhere
            return url, [status.st_size, status.st_mtime_ns]
        system, place = fsspec.core.url_to_fs(url)
        info = system.info(place)
        version = [str(info.get(key)) for key in ("size", "ETag", "LastModified", "mtime", "created", "checksum")]
        if self.cache_dir is None:
            return url, version
        copy = self.cache_dir / "shards" / f"{digest([url, version])}-{Path(place).name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(copy.with_suffix(".lock")):
            if not copy.exists():
                _copy(system, place, copy, info.get("size"))
        return str(copy), version

    def _order(self) -> dict[str, Any]:
        if self.shuffle_shards is None:
            return super()._order()
        pairs = self.pairs("train")
        reader = self._listed[str(self.sources["train"])].reader
        assert isinstance(reader, ShardReader)
        shard = reader.shard if pairs.rows is None else reader.shard[pairs.rows.values]
        order = f"shuffle_shards {self.shuffle_shards}"
        return {**super()._order(), "permute": windowed(shard, self.shuffle_shards), "order": order}


def expand(pattern: str) -> list[str]:
    """The shards that a pattern means, local ones as paths: brace ranges first, then globs and folders.

    Raises:
        InputError: the package `webdataset` is missing, a pattern matches nothing, or is a command.
    """
    if find_spec("webdataset") is None:
        raise InputError('shards need the package webdataset: `pip install -e ".[wds]"`')
    from webdataset.shardlists import expand_urls

    shards: list[str] = []
    if sum(map(written_out, pattern.split("::"))) > MAX_SHARDS:
        raise InputError(f"{pattern}: its braces mean over {MAX_SHARDS:,} shards: name fewer at once")
    try:
        urls = expand_urls(pattern)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{pattern}: {error}") from error
    for url in urls:
        if url.startswith("pipe:"):
            raise InputError(f"{url}: commands are not run; name files or URLs")
        local = "://" not in url or url.startswith("file://")
        name = os.path.expanduser(url.removeprefix("file://")) if local else url  # noqa: PTH111
        found = _local_shards(name) if local else _remote_shards(name)
        if not found:
            raise InputError(f"{url}: no shards there")
        shards += found
    places = [url if "://" in url else os.path.abspath(url) for url in shards]  # noqa: PTH100
    twice = [url for url, count in Counter(places).items() if count > 1]
    if twice:
        raise InputError(f"{pattern}: names {twice[0]} twice, whose pairs would count double: name it once")
    return shards


MAX_SHARDS = 10**6


def written_out(pattern: str) -> int:
    """How many names the braces of a pattern mean: {0..9} ten, {a,b} two, {0..9}{a,b} twenty."""
    total = 1
    for first, last, several in re.findall(r"\{(\d{1,18})\.\.(\d{1,18})(?:\.\.\d+)?\}|\{([^{}]*,[^{}]*)\}", pattern):
        total *= several.count(",") + 1 if several else abs(int(last) - int(first)) + 1
    return total


def _local_shards(name: str) -> list[str]:
    if os.path.isdir(name):  # noqa: PTH112
        return sorted(glob.glob(os.path.join(glob.escape(name), "*.tar")))  # noqa: PTH118, PTH207
    # A name without wildcards may be missing: a fault, not a typing error.
    return sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207


def _remote_shards(url: str) -> list[str]:
    if not glob.has_magic(url.partition("://")[2]):
        return [url]
    try:
        system, place = fsspec.core.url_to_fs(url)
        return sorted(system.unstrip_protocol(name) for name in system.glob(place))
    except Exception as error:
        raise InputError(f"{url}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _index(path: str, url: str, columns: dict[str, str], max_words: int) -> dict[str, Any]:
    try:
        with fsspec.open(path, "rb") if "://" in path else open_regular(path) as file:
            found = index_shard(file, url, columns, max_words)
    except InputError as error:
        raise NotAShard(str(error)) from error
    except OSError as error:  # The shard's trouble, not the cache's.
        raise NotAShard(error.strerror or str(error)) from error
    faults = [[fault.place, fault.kind, fault.detail] for fault in found.faults]
    return {"pairs": found.pairs, "faults": faults, "unused": dict(found.unused), "whole": found.whole}


def _copy(system: Any, place: str, copy: Path, size: int | None) -> None:
    free = shutil.disk_usage(copy.parent).free
    if size and size > free:
        raise InputError(
            f"{copy.parent}: needs {size / 1e6:,.0f} MB for {place} and has {free / 1e6:,.0f} MB free: set cache_dir "
            "to another folder, or to null to read over the network"
        )
    temporary = copy.with_suffix(".tmp")
    try:
        system.get_file(place, str(temporary))
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)


def _estimated(broken: list[tuple[Fault, int]], pairs: int, shards: int) -> list[Fault]:
    """The faults of whole shards, and how many pairs are lost with each.

    It is what img2dataset's notes beside the shard say, else as many as whole shards hold on average, else at least 1.
    """
    whole = shards - len(broken)
    usual = round((pairs - sum(found for _, found in broken)) / whole) if whole else 0
    faults = []
    for fault, found in broken:
        lost = (_successes(fault.place) or usual) - found
        faults.append(replace(fault, pairs=lost) if lost > 0 else replace(fault, exact=False))
    return faults


def _successes(url: str) -> int | None:
    """The number of pairs that img2dataset noted in 00012_stats.json beside 00012.tar, if it is there."""
    try:
        with fsspec.open(f"{url.removesuffix('.tar')}_stats.json", "rb") as file:
            return int(json.loads(file.read(MAX_CONFIG))["successes"])
    except Exception:  # None, or no such notes; each file system has errors of its own.
        return None
