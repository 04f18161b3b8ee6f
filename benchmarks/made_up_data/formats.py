"""The shapes data in every format that people's data come in: for benchmarks, tests, and whoever wants an example."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.rendered import scenes


@dataclass(frozen=True)
class Sample:
    """One picture file and its captions; a lone surrogate in one stands for a byte that is no UTF-8."""

    name: str
    data: bytes
    captions: tuple[str, ...]


def samples(count: int, size: int = 64, kind: str = "JPEG", quality: int = 90, first: int = 0) -> list[Sample]:
    """Pairs of `datamodules.rendered.scenes` as picture files, with what else is true of each as further captions."""
    found = []
    for index in range(first, first + count):
        pair = scenes.make_pair("train", index)
        more = scenes.caption_of({**scenes.describe(pair.scene), "background": None})
        stem = f"{pair.caption.replace(' ', '_')}-{index:05d}"
        suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
        data = encoded(Image.fromarray(scenes.render(pair.scene, size)), kind, quality=quality)
        found.append(Sample(f"{stem}.{suffix}", data, tuple(dict.fromkeys((pair.caption, more)))))
    return found


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """A picture file's content."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(folder: Path, pairs: Sequence[Sample]) -> None:
    """The picture files alone; their names are captions too."""
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        (folder / pair.name).write_bytes(pair.data)


def write_text_files(folder: Path, pairs: Sequence[Sample]) -> None:
    """Pictures, each with a .txt of one caption a line."""
    write_pictures(folder, pairs)
    for pair in pairs:
        if pair.captions:
            text = "\n".join(pair.captions) + "\n"
            (folder / pair.name).with_suffix(".txt").write_bytes(text.encode("utf-8", "surrogateescape"))


def write_metadata(folder: Path, pairs: Sequence[Sample], table: str = "metadata.jsonl") -> None:
    """Pictures in a subfolder and a table in Hugging Face's imagefolder convention: file_name, text, recaption."""
    write_pictures(folder / "pictures", pairs)
    rows = [
        {"file_name": f"pictures/{pair.name}", "text": pair.captions[0], "recaption": pair.captions[-1]}
        for pair in pairs
    ]
    with (folder / table).open("w", encoding="utf-8", newline="") as file:
        if table.endswith(".csv"):
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def write_coco(folder: Path, pairs: Sequence[Sample], name: str = "train2017") -> None:
    """COCO's folder: annotations/captions_NAME.json and NAME/."""
    write_pictures(folder / name, pairs)
    numbers = range(1, len(pairs) + 1)
    images = [{"id": k, "file_name": pair.name} for k, pair in zip(numbers, pairs, strict=True)]
    captions = [(k, text) for k, pair in zip(numbers, pairs, strict=True) for text in pair.captions]
    content = {
        "images": images,
        "annotations": [{"id": k, "image_id": image, "caption": text} for k, (image, text) in enumerate(captions)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"captions_{name}.json").write_text(json.dumps(content), encoding="utf-8")


def write_shards(folder: Path, pairs: Sequence[Sample], sizes: Sequence[int]) -> list[Path]:
    """Shards of the given numbers of pairs as img2dataset writes them: picture, txt and json of each pair."""
    from webdataset import TarWriter

    folder.mkdir(parents=True, exist_ok=True)
    shards, rest = [], iter(pairs)
    for number, size in enumerate(sizes):
        shards.append(folder / f"{number:05d}.tar")
        with TarWriter(str(shards[-1])) as writer:
            for k in range(size):
                writer.write({"__key__": f"{number:05d}{k:04d}", **members(next(rest))})
    return shards


def members(pair: Sample) -> dict[str, bytes]:
    """A pair in a shard: the picture, and txt and json if there is a caption."""
    found = {pair.name.rpartition(".")[2]: pair.data}
    if pair.captions:
        found["txt"] = pair.captions[0].encode("utf-8", "surrogateescape")
        record = {"caption": pair.captions[0], "recaption": pair.captions[-1], "status": "success"}
        found["json"] = json.dumps(record).encode()
    return found


def write_rows(folder: Path, pairs: Sequence[Sample]) -> None:
    """What `datasets.Dataset.save_to_disk` writes: columns image, text (a list), caption."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": pair.data, "path": pair.name} for pair in pairs],
            "text": [list(pair.captions) for pair in pairs],
            "caption": [pair.captions[0] for pair in pairs],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "text": datasets.Sequence(datasets.Value("string")),
                "caption": datasets.Value("string"),
            }
        ),
    )
    rows.save_to_disk(str(folder))


def write_icons(folder: Path, colours: Sequence[str] = scenes.COLOURS, shapes: Sequence[str] = scenes.SHAPES) -> None:
    """Two sets of drawings as `npm pack` leaves Iconify's packages: a disc of each colour, called after each shape."""
    names = [f"{colour}-{shape}" for colour in colours for shape in shapes]
    for title, radius in (("Small Emoji", 4), ("Large Emoji", 7)):
        prefix = title.split()[0].lower()
        bodies = {name: f'<circle cx="8" cy="8" r="{radius}" fill="{name.split("-")[0]}"/>' for name in names}
        licence = {"title": "Apache 2.0", "spdx": "Apache-2.0", "url": "https://example.org/licence"}
        write_package(
            folder,
            {
                "icons.json": {
                    "prefix": prefix,
                    "icons": {name: {"body": bodies[name]} for name in names},
                    "height": 16,
                },
                "info.json": {"prefix": prefix, "name": title, "author": {"name": "An Author"}, "license": licence},
                "package.json": {"name": f"@iconify-json/{prefix}", "version": "1.2.3"},
                "chars.json": {f"{0x1F400 + k:x}": name for k, name in enumerate(names)},
            },
        )


def write_package(folder: Path, files: dict[str, Any], version: str = "1.2.3") -> Path:
    """Files of JSON as `npm pack` packs them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{files['package.json']['name'][1:].replace('/', '-')}-{version}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, value in files.items():
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _shards(folder: Path, pairs: Sequence[Sample]) -> None:
    third = len(pairs) // 3
    write_shards(folder, pairs, [third, 2 * third // 3, len(pairs) - third - 2 * third // 3])


@dataclass(frozen=True)
class Format:
    """How pairs are written, and the `data:` section that reads them; FOLDER stands for the place."""

    write: Callable[[Path, Sequence[Sample]], None]
    class_path: str
    init_args: dict[str, Any]

    def section(self, folder: Path, **more: Any) -> dict[str, Any]:
        """The `data:` section for the pairs that were written to a folder."""
        given = {
            key: value.replace("FOLDER", str(folder)) if isinstance(value, str) else value
            for key, value in self.init_args.items()
        }
        return {"class_path": self.class_path, "init_args": {**given, **more}}

    def open(self, folder: Path, **more: Any) -> Any:
        """The DataModule itself."""
        section = self.section(folder, **more)
        module, _, name = self.class_path.rpartition(".")
        return getattr(import_module(module), name)(**section["init_args"])


_FOLDER = "datamodules.image_folder.ImageFolderDataModule"
_COCO_PARTS = {"train": "train2017", "val": "train2017", "test": "train2017"}

FORMATS: dict[str, Format] = {
    "text files": Format(write_text_files, _FOLDER, {"train": "FOLDER"}),
    "metadata.jsonl": Format(write_metadata, _FOLDER, {"train": "FOLDER"}),
    "metadata.csv": Format(
        lambda folder, pairs: write_metadata(folder, pairs, "metadata.csv"), _FOLDER, {"train": "FOLDER"}
    ),
    "file names": Format(write_pictures, _FOLDER, {"train": "FOLDER", "captions_from": "names"}),
    "COCO": Format(write_coco, "datamodules.coco.CocoDataModule", {"folder": "FOLDER", **_COCO_PARTS}),
    "shards": Format(_shards, "datamodules.webdataset.WebDatasetDataModule", {"train": "FOLDER", "cache_dir": None}),
    "Hugging Face": Format(write_rows, "datamodules.huggingface.HuggingFaceDataModule", {"path": "FOLDER"}),
}

EMOJI = Format(
    lambda folder, pairs: write_icons(folder),
    "datamodules.emoji_styles.EmojiStylesDataModule",
    {"packages": "FOLDER", "cache_dir": None, "caption": "{style} {name}"},
)
