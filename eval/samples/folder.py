"""A folder of samples: NNNNN.png, grid.png and manifest.jsonl. The contract of generation and evaluation."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.errors import InputError
from eval.files import replacing_folder
from eval.samples.grid import caption_grid, to_pil
from eval.samples.manifest import REQUIRED, read_manifest
from eval.samples.pictures import FIT, PNG, fitted, read_picture
from eval.untrusted import MAX_PICTURE, read_bytes, require_inside
from modules.images.files import as_rgb

MANIFEST = "manifest.jsonl"
GRID = "grid.png"
ATTRIBUTION = "ATTRIBUTION.txt"  # whom to name where the images are shown, if anybody
GRID_CAPTIONS = 32  # the first ones, by number, are shown in it
SIDECARS = {".json", ".jsonl", ".txt", ".md", ".yaml", ".html"}  # metrics, licences: may stand beside the images
MAX_PIXELS = 2**24  # 4096 x 4096
PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG_TAIL = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class SampleFolder:
    """A sample folder that has been checked: every manifest line has its image, and every image its line.

    Attributes:
        path: the folder.
        records: one dict for each image, in the manifest's order.
        size: (height, width) of all images.
        fit: the side that every image is brought to by `eval.samples.pictures.fitted` when it is read; None leaves them
            as they are.
        captioned: whether the images have captions; without, each has the caption "" and a number of its own.
    """

    path: Path
    records: list[dict[str, Any]]
    size: tuple[int, int]
    fit: int | None = None
    captioned: bool = True

    @classmethod
    def open(cls, path: str | Path) -> SampleFolder:
        """Opens a folder and checks names, manifest and image headers, without decoding the images.

        Raises:
            InputError: the folder, its manifest or an image is missing, truncated, extra, repeated or of another size.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError(
                f"sample folder {path} does not exist; write one with `unclip sample` or `unclip data export`"
            )
        records = read_manifest(path / MANIFEST)
        _check_files(path, [record["file"] for record in records])
        sizes = [_png_size(require_inside(path, record["file"])) for record in records]
        for record, size in zip(records, sizes, strict=True):
            if size != sizes[0]:
                raise InputError(
                    f"{path / record['file']} is {size[1]}x{size[0]} pixels where {records[0]['file']} is"
                    f" {sizes[0][1]}x{sizes[0][0]}; one folder holds images of one size"
                )
        if not 0 < sizes[0][0] * sizes[0][1] <= MAX_PIXELS:
            raise InputError(f"{path} holds images of {sizes[0][1]}x{sizes[0][0]} pixels; the limit is 2^24 an image")
        return cls(path, records, sizes[0])

    def __len__(self) -> int:
        return len(self.records)

    @property
    def captions(self) -> list[str]:
        """The caption of each image."""
        return [record["caption"] for record in self.records]

    @property
    def caption_index(self) -> np.ndarray:
        """(N,) int64: which caption each image belongs to. Images with one number are samples of one caption."""
        return np.array([record["caption_index"] for record in self.records], dtype=np.int64)

    @property
    def condition(self) -> str:
        """The condition that the images were drawn under.

        Raises:
            InputError: the manifest names more than one condition.
        """
        found = sorted({record["condition"] for record in self.records})
        if len(found) != 1:
            raise InputError(
                f"{self.path / MANIFEST} mixes the conditions {', '.join(found)}; sample each into its own folder"
            )
        return found[0]

    @property
    def fitting(self) -> str | None:
        """How images of other sizes come to `size`, in words; None where none is changed."""
        return None if self.fit is None else FIT.format(size=self.fit)

    def fitted(self, size: int) -> SampleFolder:
        """The same images, each brought to (size, size) when it is read; see `eval.samples.pictures.fitted`."""
        sizes = {tuple(record.get("size") or self.size) for record in self.records}
        return replace(self, size=(size, size), fit=None if sizes == {(size, size)} else size)

    def images(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Decodes images `start` to `stop` (like a slice) as uint8 (N, 3, H, W).

        Raises:
            InputError: an image cannot be decoded, or is not the one that the manifest's checksum describes.
        """
        chosen = self.records[start:stop]
        out = torch.empty((len(chosen), 3, *self.size), dtype=torch.uint8)
        for k, record in enumerate(chosen):
            pixels = _decode(self.path / record["file"], record.get("sha256"), self.fit)
            if pixels.shape[1:] != self.size:
                raise InputError(f"{self.path / record['file']} is turned by its EXIF; save it upright")
            out[k] = torch.from_numpy(pixels)
        return out


def require_writable(folder: str | Path, overwrite: bool = False) -> None:
    """Checks that `write_samples` may write there; call it before the minutes that the sampling takes.

    Raises:
        InputError: a file is in the way; the folder is not empty and `overwrite` is off, or holds anything but samples;
            or the place cannot be written to.
    """
    folder = Path(folder).absolute()
    if folder.is_dir():
        entries = sorted(entry.name for entry in folder.iterdir())
        if entries and not overwrite:
            raise InputError(f"{folder} is not empty; choose another folder or pass --overwrite")
        foreign = [name for name in entries if not _is_sample_file(folder / name)]
        if foreign:
            raise InputError(f"{folder} holds {foreign[0]}, which is no part of a sample folder; choose another folder")
    elif folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is a file; choose another folder")
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {folder}: no permission in {parent}; choose another folder")


def write_samples(
    folder: str | Path,
    images: Tensor | Iterable[Image.Image],
    records: Sequence[dict[str, Any]],
    overwrite: bool = False,
) -> SampleFolder:
    """Writes a sample folder so that it is there completely or not at all.

    Args:
        folder: where; parents are made. An old sample folder is replaced if `overwrite` is on.
        images: uint8 (N, 3, H, W), or N pictures of one size; of an iterator only a few are in memory at a time.
        records: N manifest lines with at least caption, caption_index, sample_index and condition; "file" and "sha256"
            are added. The records themselves are left as they are.

    Raises:
        InputError: see `require_writable`; also a full disk.
        ValueError: the numbers of images and records differ, or a record lacks a key.
    """
    folder = Path(folder).absolute()
    count = len(images) if isinstance(images, Sized) else len(records)
    if count != len(records) or not records:
        raise ValueError(f"{count} images do not go with {len(records)} records")
    require_writable(folder, overwrite)
    shown = captions_shown(records)
    with replacing_folder(folder) as partial:
        lines: list[str] = []
        pictures: list[Image.Image] = []
        chosen: list[dict[str, Any]] = []
        for k, (image, record) in enumerate(zip(images, records, strict=True)):
            picture = to_pil(image) if isinstance(image, Tensor) else as_rgb(image, f"picture {k}")
            lines.append(write_image(partial, k, picture, record))
            if record["caption_index"] in shown:
                pictures.append(picture)
                chosen.append(record)
        write_index(partial, lines, pictures, chosen)
    return SampleFolder.open(folder)


def attributions(records: Iterable[dict[str, Any]]) -> list[str]:
    """The attributions to show with the images of these manifest lines (author and licence), each once."""
    return sorted({str(record["attribution"]) for record in records if record.get("attribution")})


def captions_shown(records: Iterable[dict[str, Any]]) -> set[int]:
    """The numbers of the captions that grid.png shows."""
    return set(sorted({record["caption_index"] for record in records})[:GRID_CAPTIONS])


def write_index(folder: Path, lines: Iterable[str], shown: list[Image.Image], records: list[dict[str, Any]]) -> None:
    """Writes the other files of a sample folder: manifest.jsonl, grid.png of the first images, and attributions.

    Args:
        folder: holds the images.
        lines: of the manifest, as `write_image` returns them.
        shown, records: the images of the captions of `captions_shown`, and their manifest lines.
    """
    lines = list(lines)
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")
    whom = attributions(map(json.loads, lines))
    if whom:
        (folder / ATTRIBUTION).write_text("\n".join(whom) + "\n", encoding="utf-8")
    captions, groups = [r["caption"] for r in records], [r["caption_index"] for r in records]
    caption_grid(shown, captions, groups, GRID_CAPTIONS).save(folder / GRID, **PNG)
    read_manifest(folder / MANIFEST)


def write_image(folder: Path, k: int, image: Image.Image, record: dict[str, Any]) -> str:
    """Writes image k of a sample folder; returns its manifest line, with the file's name and checksum."""
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", **PNG)
    name = f"{k:05d}.png"
    line = {**record, "file": name, "sha256": hashlib.sha256(encoded.getvalue()).hexdigest()}
    missing = [key for key in REQUIRED if key not in line]
    if missing:
        raise ValueError(f"record {k} lacks {missing[0]!r}")
    (folder / name).write_bytes(encoded.getvalue())
    return json.dumps({"file": name, **line}, ensure_ascii=False, allow_nan=False) + "\n"


def _is_sample_file(path: Path) -> bool:
    if not path.is_file():
        return False
    return bool(re.fullmatch(r"\d{5,}\.png", path.name)) or path.name in (GRID, MANIFEST) or path.suffix in SIDECARS


def _check_files(folder: Path, listed: list[str]) -> None:
    found = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    missing = sorted(set(listed) - found)
    if missing:
        raise InputError(f"{folder} lacks {_some(missing)}, which its manifest lists; sample again")
    extra = sorted(name for name in found - set(listed) - {GRID} if Path(name).suffix not in SIDECARS)
    if extra:
        raise InputError(
            f"{folder} holds {_some(extra)}, which its manifest does not list; move it away or sample again"
        )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _png_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header; also looks at the last bytes, where a cut file gives itself away."""
    with path.open("rb") as file:
        head = file.read(24)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - len(PNG_TAIL)))
        tail = file.read()
    if not head.startswith(PNG_HEAD):
        raise InputError(f"{path} is not a PNG image; sample again")
    if tail != PNG_TAIL:
        raise InputError(f"{path} is truncated ({length} bytes, no end mark); sample again")
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")


def _decode(path: Path, checksum: str | None, fit: int | None) -> np.ndarray:
    try:
        content = read_bytes(path, MAX_PICTURE)
        picture = read_picture(content, path)
        pixels = np.asarray(picture if fit is None else fitted(picture, fit)).transpose(2, 0, 1).copy()
    except InputError as error:
        raise InputError(f"{error}; replace it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); replace it") from error
    if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
        raise InputError(f"{path} is not the image that the manifest describes (its checksum differs); sample again")
    return pixels
