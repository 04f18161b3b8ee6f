"""MS-COCO's captions, from its ordinary folder: five people's captions a picture, one drawn in every pass."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from datamodules.captions import GROUND_TRUTH, CaptionConfig, usable
from datamodules.faults import Fault, FaultPolicy
from datamodules.image_folder import FolderReader, files_below
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import Listed, PictureDataModule, SplitConfig
from datamodules.pictures.sources import Entry, PairTable
from datamodules.pictures.tables import Names, inside
from modules.errors import InputError
from modules.untrusted.reading import MAX_TABLE, read_bytes, reason


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
        token_features: whether the batches hold the CLIP's features of every caption token, for networks that read them
            (`unclip embed --token-features`).

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
        token_features: bool = False,
    ) -> None:
        sources: dict[str, str | None] = {"train": train, "val": val, "test": test}
        super().__init__(
            sources, image_size, batch_size, embeddings, cache_dir, seed, num_workers, captions, picture, splits, faults
        )
        self.token_features = token_features
        self.folder = Path(folder).expanduser()

    def list_pairs(self, source: str) -> Listed:
        self.caption_config.refuse_columns("COCO's annotations")
        annotations = self.folder / "annotations" / f"captions_{source}.json"
        folders = [self.folder / source, self.folder / "images" / source]
        root = next((folder for folder in folders if folder.is_dir()), None)
        if root is None:
            raise InputError(f"{folders[0]}: no such folder; unpack COCO's {source} pictures there")
        files, captions, faults = read_captions(annotations)
        there = Names(files_below(root, faults, self.faults.follow_links))
        entries = []
        for number, name in files.items():
            place = f"{annotations}: image {number}"
            name, wrong_path = inside("", name)
            if wrong_path:
                faults.append(Fault(place, wrong_path, name))
            elif (name := there.find(name)) not in there:
                faults.append(Fault(place, "an entry that points nowhere", str(root / name)))
            else:
                found, wrong = usable(captions.get(number, []), place, self.caption_config.max_words)
                faults += wrong
                if found:
                    entries.append(Entry(name, found))
        table = PairTable.of(sorted(entries))
        return Listed(table, faults, FolderReader(root, table.keys))


Id = int | str
"""Of an image or an annotation: COCO's are numbers, other people's are texts, too."""


def read_captions(path: Path) -> tuple[dict[Id, str], dict[Id, list[tuple[str, Any]]], list[Fault]]:
    """A COCO captions file: file name by image, captions by image in the order of their own ids, faults.

    Ids only say which caption is of which image: they may be numbers or texts, and "12" is 12. Captions without an id
    of their own follow in the file's order.

    Differs from `eval.samples.coco.read_annotations`, which prepares an evaluation and refuses a file that has any
    fault.

    Raises:
        InputError: unreadable, or not COCO's caption format.
    """
    try:
        content = json.loads(read_bytes(path, MAX_TABLE).decode("utf-8-sig", "surrogateescape"))
        images, annotations = list(content["images"]), list(content["annotations"])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; COCO keeps its captions there") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a COCO captions file ({reason(error)}): it has no images and annotations"
        ) from error
    files: dict[Id, str] = {}
    captions: dict[Id, list[tuple[tuple[int, int], Any]]] = {}
    faults = []
    for image in images:
        wrong = lacking(image, "id", "file_name")
        if wrong:
            faults.append(Fault(f"{path}: {str(image)[:60]}", f"an image {wrong}"))
        elif id_of(image["id"]) in files:
            faults.append(Fault(f"{path}: image {image['id']}", "a key that occurs twice"))
        else:
            files[id_of(image["id"])] = image["file_name"]
    for position, annotation in enumerate(annotations):
        wrong = lacking(annotation, "image_id", "caption")
        if wrong:
            faults.append(Fault(f"{path}: {str(annotation)[:60]}", f"an annotation {wrong}"))
            continue
        image, own = id_of(annotation["image_id"]), annotation.get("id")
        if image not in files:
            place = f"{path}: caption {position if own is None else own}"
            faults.append(Fault(place, "an annotation that points nowhere", f"image {image}"))
            continue
        order = (0, own) if type(own) is int else (1, position)
        captions.setdefault(image, []).append((order, annotation["caption"]))
    ordered = {
        image: [(GROUND_TRUTH, caption) for _, caption in sorted(found, key=lambda pair: pair[0])]
        for image, found in captions.items()
    }
    return files, ordered, faults


def lacking(entry: Any, *keys: str) -> str:
    """Which part of an image or annotation is missing or of the wrong type, as the text of a fault; or ""."""
    if not isinstance(entry, dict):
        return "that is no mapping"
    missing = [key for key in keys if entry.get(key) is None]
    if missing:
        return f"without {' and '.join(missing)}"
    for key in keys:
        if key.endswith("id") and type(id_of(entry[key])) not in (int, str):
            return f"whose {key} is neither a whole number nor text"
        if key == "file_name" and not isinstance(entry[key], str):
            return "whose file_name is not text"
    return ""


def id_of(value: Id | float) -> Id:
    """An id as it is compared: "12" and 12.0, as tables of numbers write it, are 12; "0012" and "a1" are texts."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]*", value) else cast(Id, value)
