"""MS-COCO's captions, from its ordinary folder: five people's captions a picture, one drawn in every pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.captions import GROUND_TRUTH, CaptionConfig, usable
from datamodules.faults import Fault, FaultPolicy
from datamodules.image_folder import FolderReader
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import Listed, PictureDataModule, SplitConfig
from datamodules.pictures.sources import Entry, PairTable
from modules.errors import InputError


class CocoDataModule(PictureDataModule):
    """`FOLDER/annotations/captions_NAME.json` with the pictures in `FOLDER/NAME` or `FOLDER/images/NAME`.

    Any captions in COCO's format will do. The captions of its test pictures are not public, so by default validation
    and test share the pictures of `val2017`, by the hash of the file name.

    `unclip coco` prepares the zero-shot evaluation of the paper's Table 2 instead.

    Args:
        folder: COCO's folder.
        train: NAME of the training part.
        val: NAME of the validation part.
        test: NAME of the test part; the same as `val` shares it.
        image_size: side of the images in pixels.
        batch_size: pairs a batch and process, in training and in evaluation.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: not used by this format.
        seed: of the training order and of what is drawn anew in every pass.
        num_workers: loader processes.
        captions: length of captions, and whether one is drawn.
        picture: crop, flip, decoding.
        splits: sizes and shares.
        faults: what happens with pairs that cannot be used.

    Raises:
        InputError: a file is missing or not COCO's, more faults than allowed.
    """

    def __init__(
        self,
        folder: str,
        train: str = "train2017",
        val: str = "val2017",
        test: str = "val2017",
        image_size: int = 64,
        batch_size: int = 64,
        embeddings: str | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        captions: CaptionConfig = CaptionConfig(),
        picture: PictureConfig = PictureConfig(),
        splits: SplitConfig = SplitConfig(),
        faults: FaultPolicy = FaultPolicy(),
    ) -> None:
        sources: dict[str, str | None] = {"train": train, "val": val, "test": test}
        super().__init__(
            sources, image_size, batch_size, embeddings, cache_dir, seed, num_workers, captions, picture, splits, faults
        )
        self.folder = Path(folder).expanduser()

    def list_pairs(self, source: str) -> Listed:
        self.caption_config.refuse_columns("COCO's annotations")
        annotations = self.folder / "annotations" / f"captions_{source}.json"
        folders = [self.folder / source, self.folder / "images" / source]
        root = next((folder for folder in folders if folder.is_dir()), None)
        if root is None:
            raise InputError(f"{folders[0]}: no such folder; unpack COCO's {source} pictures there")
        files, captions, faults = read_captions(annotations)
        there = {path.name for path in root.iterdir()}
        entries = []
        for number, name in files.items():
            place = f"{annotations}: image {number}"
            if Path(name).name != name:
                faults.append(Fault(place, "a path that leads out of the folder", name))
            elif name not in there:
                faults.append(Fault(place, "an entry that points nowhere", str(root / name)))
            else:
                found, wrong = usable(captions.get(number, []), place, self.caption_config.max_words)
                faults += wrong
                if found:
                    entries.append(Entry(name, found))
        table = PairTable.of(sorted(entries))
        return Listed(table, faults, FolderReader(root, table.keys))


def read_captions(path: Path) -> tuple[dict[int, str], dict[int, list[tuple[str, Any]]], list[Fault]]:
    """A COCO captions file: file name by image number, captions by image number in the order of their own, faults.

    Differs from `eval.samples.coco.read_annotations`, which prepares an evaluation and refuses a file that has any
    fault.

    Raises:
        InputError: unreadable, or not COCO's caption format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
        images, annotations = list(content["images"]), list(content["annotations"])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; COCO keeps its captions there") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a COCO captions file ({error!r}): it has no images and annotations") from error
    files: dict[int, str] = {}
    captions: dict[int, list[tuple[int, Any]]] = {}
    faults = []
    for image in images:
        match image:
            case {"id": int(number), "file_name": str(name)} if number not in files:
                files[number] = name
            case {"id": int(number), "file_name": str()}:
                faults.append(Fault(f"{path}: image {number}", "a key that occurs twice"))
            case _:
                faults.append(Fault(f"{path}: {str(image)[:60]}", "an image without id and file_name"))
    for annotation in annotations:
        match annotation:
            case {"id": int(number), "image_id": int(image), "caption": caption} if image in files:
                captions.setdefault(image, []).append((number, caption))
            case {"id": int(number), "image_id": int(image), "caption": _}:
                faults.append(Fault(f"{path}: caption {number}", "an annotation that points nowhere", f"image {image}"))
            case _:
                faults.append(Fault(f"{path}: {str(annotation)[:60]}", "an annotation without image_id and caption"))
    ordered = {
        image: [(GROUND_TRUTH, caption) for _, caption in sorted(found, key=lambda pair: pair[0])]
        for image, found in captions.items()
    }
    return files, ordered, faults
