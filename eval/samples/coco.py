"""An ordinary COCO folder (captions json and images) as the captions and the real images of a protocol."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.errors import InputError
from eval.files import replacing_files
from eval.protocol import PROTOCOL_FILE, CaptionProtocol, captions_digest
from eval.samples.folder import SampleFolder, require_writable, write_samples
from eval.samples.pictures import fitted, read_picture
from eval.untrusted import MAX_TABLE, read_bytes, reason

CAPTIONS, REFERENCE = "captions.jsonl", "reference"


def export(
    annotations: Path, images: Path, out: Path, protocol: CaptionProtocol, overwrite: bool = False
) -> SampleFolder:
    """Writes OUT/captions.jsonl (what to sample), OUT/reference (the real images) and OUT/protocol.json.

    Args:
        annotations: captions_val2014.json or alike: "images" with id and file_name, "annotations" with id, image_id and
            caption.
        images: the folder of the image files.
        out: the folder to write. The reference is written last, so an export that was killed is made anew.
        protocol: which captions and images.
        overwrite: replace an older export; without it OUT/reference must not be there yet.

    Returns:
        The folder of real images.

    Raises:
        InputError: a file is missing or not in COCO's format, an image cannot be read, or there are fewer captions than
            asked for; all is as it was then.
    """
    files, captions = read_annotations(annotations)
    left_out = excluded(protocol, files)
    kept = [c for c in captions if c["image_id"] not in left_out]
    if len(kept) < protocol.captions:
        raise InputError(
            f"{annotations} holds {len(kept)} captions to draw from, the protocol asks for {protocol.captions}:"
            " give another --protocol"
        )
    order = np.random.default_rng(protocol.seed).permutation(len(kept))[: protocol.captions]
    drawn = [kept[k] for k in order]
    wanted = sorted({c["image_id"] for c in (drawn if protocol.reference == "drawn" else kept)})
    absent = [files[k] for k in wanted if not (images / files[k]).is_file()]
    if absent:
        raise InputError(f"{images} lacks {absent[0]}" + (f" and {len(absent) - 1} more" if absent[1:] else ""))
    require_writable(out / REFERENCE, overwrite)
    text = {c["image_id"]: c["caption"] for c in reversed(captions)}
    shared = {"sample_index": 0, "condition": "real", "protocol": protocol.name}
    records = [{"caption": text[k], "caption_index": k, "source": files[k], **shared} for k in wanted]
    pictures = (load_image(images / files[k], protocol.size) for k in wanted)
    lines = [
        {"caption": c["caption"], "caption_index": k, "image_id": c["image_id"], "annotation": c["id"]}
        for k, c in enumerate(drawn)
    ]
    content = {
        **asdict(protocol),
        "digest": protocol.digest(left_out),
        "captions_digest": captions_digest(line for line in lines for _ in range(protocol.per_caption)),
        "left_out": len(left_out),
        "reference_n": len(wanted),
    }
    with replacing_files(
        {
            out / CAPTIONS: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
            out / PROTOCOL_FILE: json.dumps(content, indent=1) + "\n",
        }
    ):
        return write_samples(out / REFERENCE, pictures, records, overwrite)


def read_annotations(path: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """File name by image number, and the captions in the order of their numbers, of images that the file lists.

    Raises:
        InputError: unreadable, or not COCO's caption format.
    """
    try:
        content = json.loads(read_bytes(path, MAX_TABLE).decode("utf-8-sig"))
        files = {_number(image["id"], "an image's id", path): str(image["file_name"]) for image in content["images"]}
        captions = [
            {
                "id": _number(a.get("id", position), "a caption's id", path),
                "image_id": _number(a["image_id"], "a caption's image_id", path),
                "caption": " ".join(str(a["caption"]).split()),
            }
            for position, a in enumerate(content["annotations"])
        ]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read the annotations {path} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a COCO captions file ({reason(error)}); take captions_val2014.json") from error
    unknown = [c for c in captions if c["image_id"] not in files]
    if unknown:
        raise InputError(
            f"{path}: caption {unknown[0]['id']} is of image {unknown[0]['image_id']}, which it does not list"
        )
    return files, sorted(captions, key=lambda c: c["id"])


def _number(value: Any, what: str, path: Path) -> int:
    """An id, which a manifest holds as a number; "12" and 12.0 are 12, and "0012" is a text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]*", value):
        return int(value)
    if type(value) is not int:
        raise InputError(f"{path}: {what} is {value!r}; whole numbers are needed: number the images anew")
    return value


def excluded(protocol: CaptionProtocol, files: dict[int, str]) -> set[int]:
    """The numbers of the images that the protocol leaves out.

    Raises:
        InputError: the list cannot be read, or names an image that the data do not have.
    """
    if protocol.exclude is None:
        return set()
    try:
        lines = read_bytes(Path(protocol.exclude), MAX_TABLE).decode("utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the images to leave out, {protocol.exclude} ({error})") from error
    by_name = {name: number for number, name in files.items()}
    found = set()
    for line in lines:
        number = int(line) if line.isdigit() else by_name.get(line)
        if number not in files:
            raise InputError(f"{protocol.exclude} names {line}, which is no image of these data")
        found.add(number)
    return found


def load_image(path: Path, size: int) -> Image.Image:
    """An image as training reads it, its short side brought to `size` (bicubic, antialiased), then its centre.

    A smaller image is enlarged, as the usual protocol does: which images count does not depend on their size.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        picture = read_picture(path, path)
    except (OSError, InputError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); replace or remove it") from error
    return fitted(picture, size)
