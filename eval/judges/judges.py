"""The networks that look at images, and what they see: features, kept in files so that no image is looked at twice."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from eval.errors import InputError
from eval.judges.aesthetics import LinearProbe
from eval.judges.features import AttributeExtractor, CLIPExtractor, Extractor, batches
from eval.judges.published.listing import PUBLISHED
from eval.samples.folder import SampleFolder
from eval.samples.geneval import KEY

CLASSES = "classes"
BATCH, PIXELS = 128, 2**25
"""Images that judges look at together, and pixels of them: 128 of up to 512 px, 32 of 1,024 px, 8 of 2,048 px."""


class Scorer(Protocol):
    """A network that scores pictures with what their manifest lines say, as their captions.

    Attributes:
        name, resizing: see `eval.judges.features.Extractor`.
    """

    name: str
    resizing: str

    def score(self, images: Tensor, records: Sequence[Mapping[str, Any]]) -> Tensor:
        """Maps uint8 (N, 3, H, W) and N manifest lines to (N, K), on the CPU."""
        ...


@dataclass(frozen=True)
class PublishedJudges:
    """The networks of published metrics (`eval.judges.published`).

    Attributes:
        extractors: give features, by metric.
        scorers: give a score a picture, by metric.
        mlp: weights of the LAION aesthetic predictor, which reads the features of "laion_aesthetic".
    """

    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    mlp: Any = None

    def names(self) -> dict[str, str] | None:
        """Metric -> name of its judge, for protocols; None without any."""
        found = {name: judge.name for name, judge in self.extractors.items()}
        found |= {name: judge.name for name, judge in self.scorers.items()}
        if self.mlp is not None:
            found["laion_aesthetic"] += f" {self.mlp.name}"
        return found or None


@dataclass(frozen=True)
class Judges:
    """The networks that look at the images; any may be absent, but not all. Comparing needs one that gives features.

    Attributes:
        classifier: attribute accuracy, where the data have ground truth.
        clip: CLIP score, R-precision, CMMD.
        inception: FID and Inception Score.
        network: any other features, such as DINOv2's.
        aesthetic, preference: probes on the CLIP's embeddings.
        published: the networks of published metrics.
    """

    classifier: AttributeExtractor | None = None
    clip: CLIPExtractor | None = None
    inception: Extractor | None = None
    network: Extractor | None = None
    aesthetic: LinearProbe | None = None
    preference: LinearProbe | None = None
    published: PublishedJudges = PublishedJudges()

    def __post_init__(self) -> None:
        if not self.extractors() and not self.published.scorers:
            raise InputError(
                "nothing to measure with: give one of --classifier, --clip, --inception, --network, --metric"
            )
        if self.clip is None and (self.aesthetic is not None or self.preference is not None):
            raise InputError("the aesthetic and the preference probe read CLIP embeddings: give --clip as well")

    @property
    def main(self) -> str:
        """The judge whose features give Frechet distance, KID, precision, recall and diversity; "" without one."""
        return next(iter(self.extractors()), "")

    @property
    def extractor(self) -> Extractor:
        """The judge of `main` itself.

        Raises:
            InputError: none of them gives features.
        """
        if not self.main:
            raise InputError(
                f"--metric {' and '.join(self.published.scorers)} gives no features to compare with real images by:"
                " leave --reference out, or give one of --classifier, --clip, --inception, --network, --metric dinov2"
            )
        return self.extractors()[self.main]

    def extractors(self) -> dict[str, Extractor]:
        """The judges that give features, by name; the first is the main one."""
        named = {name: getattr(self, name) for name in ("network", "classifier", "clip", "inception")}
        return {name: judge for name, judge in named.items() if judge is not None} | dict(self.published.extractors)

    def everyone(self, scores: bool = True, captioned: bool = True) -> dict[str, Extractor | Scorer]:
        """All judges of a folder, by name.

        Real images (not `scores`) are shown to those that compare with them. Of the published metrics, those that read
        captions are not shown pictures without any.
        """

        def looks(name: str) -> bool:
            metric = PUBLISHED.get(name)
            if metric is None or name == self.main:
                return True
            return captioned or not metric.captions if scores else metric.real

        found = {name: judge for name, judge in self.extractors().items() if looks(name)}
        return {**found, **(self.published.scorers if scores and captioned else {})}


@dataclass(frozen=True)
class Seen:
    """The judges' results for a folder: features (N, D) by judge, and the attribute classes (N, A)."""

    features: dict[str, np.ndarray]
    classes: np.ndarray | None

    def tensor(self, judge: str) -> Tensor:
        """The features of a judge as a tensor on the same memory."""
        return torch.from_numpy(self.features[judge])


def batch_of(folder: SampleFolder) -> int:
    """How many of a folder's images are looked at together: memory does not grow with their size."""
    high, wide = folder.size
    return max(1, min(BATCH, PIXELS // (high * wide)))


def look(
    folder: SampleFolder,
    judges: Judges,
    batch_size: int | None = None,
    tick: Callable[[int], Any] | None = None,
    cache: Path | None = None,
    scores: bool = True,
) -> Seen:
    """Shows all images to all judges, each image decoded once.

    Args:
        folder: the images.
        judges: see `Judges`.
        batch_size: images at a time; changes features only by rounding; None for `batch_of`.
        tick: called with the number of images done after each batch.
        cache: a folder in which features are kept, by the content of the images, the judge and its resizing. Arrays
            from it are memory maps: 30,000 images need no more memory than 1,000.
        scores: whether they are samples, which are scored too, and not real images; see `Judges.everyone`.
    """
    digests = _digests(folder, judges, scores) if cache is not None else {}
    everyone = judges.everyone(scores, folder.captioned)
    found: dict[str, np.ndarray] = {}
    missing: dict[str, Extractor | Scorer] = {}
    for name, judge in everyone.items():
        files = {key: _file(cache, digests[name], judge, key) for key in _arrays(name)} if cache is not None else {}
        if files and all(file.is_file() for file in files.values()):
            found |= {_key(name, key): np.load(file, mmap_mode="c") for key, file in files.items()}
        else:
            missing[name] = judge
    if missing:
        found |= _look(folder, missing, batch_size or batch_of(folder), tick, cache, digests)
    elif tick is not None:
        tick(len(folder))
    return Seen({name: found[name] for name in everyone}, found.get(CLASSES))


def missing_files(
    folder: SampleFolder, judges: Judges, cache: Path, scores: bool = True
) -> dict[tuple[str, str], Path]:
    """(judge, array) -> the file of the cache, for judges whose features of these images are not cached."""
    digests = _digests(folder, judges, scores)
    found: dict[tuple[str, str], Path] = {}
    for name, judge in judges.everyone(scores, folder.captioned).items():
        files = {(name, key): _file(cache, digests[name], judge, key) for key in _arrays(name)}
        if not all(file.is_file() for file in files.values()):
            found |= files
    return found


def _digests(folder: SampleFolder, judges: Judges, scores: bool) -> dict[str, str]:
    """Judge -> hash of what its features depend on: the images, and for scorers the captions with them."""
    images = images_digest(folder)
    lines = [[record["caption"], record.get(KEY)] for record in folder.records]
    captions = hashlib.sha256(json.dumps([images, lines]).encode()).hexdigest()
    return {name: captions if name in judges.published.scorers else images for name in judges.everyone(scores)}


def _arrays(name: str) -> tuple[str, ...]:
    return ("features", CLASSES) if name == "classifier" else ("features",)


def _key(name: str, array: str) -> str:
    return CLASSES if array == CLASSES else name


def _file(cache: Path, digest: str, judge: Extractor | Scorer, array: str) -> Path:
    text = "\0".join((digest, judge.name, judge.resizing, array))
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"


def _look(
    folder: SampleFolder,
    judges: dict[str, Extractor | Scorer],
    batch_size: int,
    tick: Callable[[int], Any] | None,
    cache: Path | None,
    digests: Mapping[str, str],
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    partial: dict[str, tuple[Path, Path]] = {}
    done = 0
    try:
        for images in batches(folder, batch_size):
            records = folder.records[done : done + len(images)]
            for (name, array), values in seen_by(judges, images, records):
                key = _key(name, array)
                if key not in arrays:
                    shape = (len(folder), *values.shape[1:])
                    if cache is None:
                        arrays[key] = np.empty(shape, values.dtype)
                    else:
                        target = _file(cache, digests[name], judges[name], array)
                        part = target.with_name(f".{target.stem}.partial-{uuid.uuid4().hex[:8]}")
                        partial[key] = (part, target)
                        arrays[key] = open_features(part, shape, values.dtype)
                arrays[key][done : done + len(values)] = values
            done += len(images)
            if tick is not None:
                tick(len(images))
        for key, (part, target) in partial.items():
            arrays[key].flush()  # type: ignore[attr-defined]
            os.replace(part, target)  # noqa: PTH105
            arrays[key] = np.load(target, mmap_mode="c")
    finally:
        for part, _ in partial.values():
            with suppress(OSError):  # in its place already, or never there
                part.unlink()
    return arrays


def open_features(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new file of features as a memory map.

    Raises:
        InputError: a full disk, or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        _reserve(path, array)
        return array
    except OSError as error:
        raise InputError(f"cannot write features to {path.parent}: {error.strerror or error}") from error


def _reserve(path: Path, array: np.memmap) -> None:
    """Takes the disk's room for all of the file now: a process whose mapped file finds none later is killed."""
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):  # On a file system that cannot do it, the C library writes zeros.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        else:
            file.seek(array.offset)
            for _ in range(len(array)):
                file.write(bytes(array[0].nbytes))


def seen_by(
    judges: dict[str, Extractor | Scorer], images: Tensor, records: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """(judge, array) and what each judge sees in a batch of images with these manifest lines."""
    for name, judge in judges.items():
        if isinstance(judge, AttributeExtractor):
            seen = judge.look(images)
            yield (name, "features"), seen.features.numpy()
            yield (name, CLASSES), seen.classes.numpy()
        elif hasattr(judge, "score"):
            yield (name, "features"), judge.score(images, records).numpy()
        else:
            yield (name, "features"), judge(images).numpy()


def images_digest(folder: SampleFolder) -> str:
    """Hash of the bytes of the images' files, in the folder's order, and of their `fitting`."""
    digest = hashlib.sha256()
    if folder.fitting is not None:
        digest.update(folder.fitting.encode())
    for record in folder.records:
        content = (folder.path / record["file"]).read_bytes()
        own = hashlib.sha256(content).digest()
        if record.get("sha256") not in (None, own.hex()):
            raise InputError(
                f"{folder.path / record['file']} is not the image that the manifest describes (its checksum differs);"
                " sample again"
            )
        digest.update(own)
    return digest.hexdigest()
