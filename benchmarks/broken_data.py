"""`python -m benchmarks.broken_data`: makes every kind of broken file, trains past it, and prints what became of it.

The table in docs/data.md is this program's output.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from benchmarks.formats import FORMATS, Format, Sample, encoded, samples
from datamodules.faults import FaultPolicy
from datamodules.picture_data import PictureDataModule, SplitConfig
from modules.errors import InputError

PAIRS, BROKEN = 24, 5
Plant = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """Something that is wrong.

    Attributes:
        name: what.
        kind: of the fault that must be found; several parted by "; "; None where the pair must be used.
        formats: of `FORMATS`, where it is planted.
        sample: changes the pair number `BROKEN` before it is written.
        folder: changes what was written.
        later: changes it after the pairs have been listed, as training would find it.
    """

    name: str
    kind: str | None
    formats: tuple[str, ...] = ("text files", "shards")
    sample: Callable[[Sample], Sample] = lambda sample: sample
    folder: Plant = lambda folder: None
    later: Plant = lambda folder: None


@dataclass(frozen=True)
class Outcome:
    """What became of a case in one format.

    Attributes:
        seen: pairs that a pass of training showed.
        kinds: of the faults that were counted, parted by "; ".
        lost: pairs that were counted as lost.
        refusal: the line that `on_error: refuse` stops with; "" where it does not.
    """

    seen: set[int]
    kinds: str
    lost: int
    refusal: str


class Explosive:
    """Unpickled, it writes a file."""

    path = "exploded"

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path(self.path), "a pickle was loaded")


PICKLE = pickle.dumps(Explosive())


def reencoded(kind: str, change: Callable[[Image.Image], Image.Image], **options: Any) -> Callable[[bytes], bytes]:
    """The same picture in another mode and file format, under the old name."""

    def make(data: bytes) -> bytes:
        with Image.open(io.BytesIO(data)) as image:
            return encoded(change(image.convert("RGB")), kind, **options)

    return make


def animated(data: bytes) -> bytes:
    """A GIF whose first frame is the picture."""
    with Image.open(io.BytesIO(data)) as image:
        frame = image.convert("RGB")
    others = [Image.new("RGB", frame.size, colour) for colour in ("red", "blue")]
    return encoded(frame, "GIF", save_all=True, append_images=others)


def turned(data: bytes) -> bytes:
    """A picture that lies on its side, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 270 degrees to see it upright.
    with Image.open(io.BytesIO(data)) as image:
        return encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def bomb(side: int = 40_000) -> bytes:
    """A PNG of side x side pixels, in a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sixteen_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _content(make: Callable[[bytes], bytes]) -> Callable[[Sample], Sample]:
    return lambda sample: replace(sample, data=make(sample.data))


def _captions(*captions: str) -> Callable[[Sample], Sample]:
    return lambda sample: replace(sample, captions=captions)


def _shard(folder: Path) -> Path:
    return folder / "00000.tar"


def _add(path: str, content: bytes) -> Plant:
    """Appends a pair KEY.jpg, KEY.txt to the first shard, but for its file `path`, which holds `content`."""

    def plant(folder: Path) -> None:
        key = path.rpartition(".")[0]
        files = {f"{key}.jpg": samples(1, first=500)[0].data, f"{key}.txt": b"a red circle", path: content}
        if path.endswith(".pkl"):
            del files[f"{key}.txt"]
        with tarfile.open(_shard(folder), "a") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    return plant


def _rewrite(change: Callable[[bytes], bytes]) -> Plant:
    """Changes the first shard."""
    return lambda folder: _shard(folder).write_bytes(change(_shard(folder).read_bytes()))


def _edit_coco(change: Callable[[dict[str, Any]], object]) -> Plant:
    def plant(folder: Path) -> None:
        path = folder / "annotations" / "captions_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return plant


def _edit_line(change: Callable[[str], str]) -> Plant:
    def plant(folder: Path) -> None:
        path = folder / "metadata.jsonl"
        lines = path.read_text().splitlines()
        lines[BROKEN] = change(lines[BROKEN])
        path.write_text("\n".join(lines))

    return plant


def _renamed(name: Callable[[], str]) -> Callable[[str], str]:
    return lambda line: json.dumps({**json.loads(line), "file_name": name()})


def _remove_picture(folder: Path) -> None:
    sorted(folder.rglob("*.jpg"))[BROKEN].unlink()


_JSONL, _COCO, _SHARDS = ("metadata.jsonl",), ("COCO",), ("shards",)

CASES = (
    Case("truncated JPEG", "a damaged picture", sample=_content(lambda data: data[: len(data) // 2])),
    Case("zero-byte picture", "no readable picture", sample=_content(lambda data: b"")),
    Case("web page named .jpg", "no readable picture", sample=_content(lambda data: b"<html>404</html>")),
    Case("pickle named .jpg", "no readable picture", sample=_content(lambda data: PICKLE)),
    Case("bomb of 40,000 x 40,000 px", "a picture of too many pixels", sample=_content(lambda data: bomb())),
    Case("PNG named .jpg", None, sample=_content(reencoded("PNG", lambda image: image))),
    Case("CMYK JPEG", None, sample=_content(reencoded("JPEG", lambda image: image.convert("CMYK"), quality=95))),
    Case("16-bit greyscale", None, sample=_content(reencoded("PNG", sixteen_bits))),
    Case("animation", None, sample=_content(animated)),
    Case("turned by EXIF", None, sample=_content(turned)),
    Case("missing caption", "no caption", sample=_captions()),
    Case("empty caption", "an empty caption", sample=_captions(" \t ")),
    Case("caption of 10,000 words", "a caption that is too long", sample=_captions("word " * 10_000)),
    Case("caption that is not UTF-8", "a caption that is not UTF-8", sample=_captions("na\udcefve")),
    Case(
        "pickle named .txt", "a caption that is not UTF-8", sample=_captions(PICKLE.decode("utf-8", "surrogateescape"))
    ),
    Case("pickle for a caption", "a pickle where a caption is expected", _SHARDS, folder=_add("z.pkl", PICKLE)),
    Case("pickle named .tar", "a shard that cannot be read", _SHARDS, folder=_rewrite(lambda data: PICKLE)),
    Case("duplicate key in a shard", "a key that occurs twice", _SHARDS, folder=_add("000000003.jpg", b"")),
    Case("path with .. in a shard", "a path that leads out of the shard", _SHARDS, folder=_add("../../up.jpg", b"")),
    Case("tar cut in the middle", "a shard that is cut off", _SHARDS, folder=_rewrite(lambda d: d[: len(d) // 2])),
    Case("compressed tar", "a shard that cannot be read", _SHARDS, folder=_rewrite(gzip.compress)),
    Case("shard that vanishes", "a missing file", _SHARDS, later=lambda folder: _shard(folder).unlink()),
    Case("shard that shrinks", "a shard that has shrunk", _SHARDS, later=_rewrite(lambda d: d[: len(d) // 2])),
    Case("picture that vanishes", "a missing file", ("text files",), later=_remove_picture),
    Case(
        "annotation of no image",
        "an annotation that points nowhere",
        _COCO,
        folder=_edit_coco(lambda content: content["annotations"][0].update(image_id=999)),
    ),
    Case("listed image that is not there", "an entry that points nowhere", _COCO + _JSONL, folder=_remove_picture),
    Case(
        "image number twice",
        "a key that occurs twice",
        _COCO,
        folder=_edit_coco(lambda content: content["images"].append(content["images"][0])),
    ),
    Case(
        "picture listed twice",
        "a picture that is listed twice; no caption",
        _JSONL,
        folder=_edit_line(_renamed(lambda: f"pictures/{samples(1)[0].name}")),
    ),
    Case(
        "path with .. in a table",
        "a path that leads out of the folder; no caption",
        _JSONL,
        folder=_edit_line(_renamed(lambda: "../up.jpg")),
    ),
    Case(
        "line that is not JSON",
        "a line that is not JSON; no caption",
        _JSONL,
        folder=_edit_line(lambda line: line[:-5]),
    ),
)


def opened(format: Format, folder: Path, policy: FaultPolicy) -> PictureDataModule:
    """The DataModule of those data, all pairs of which are for training."""
    splits = SplitConfig(val_share=0.0, test_share=0.0)
    return format.open(folder, image_size=16, batch_size=4, splits=splits, faults=policy)


def trained(case: Case, format: Format, folder: Path, on_error: Literal["skip", "refuse"]) -> tuple[Any, set[int]]:
    """The DataModule after a pass of training over data with the fault, and the pairs that were shown.

    Raises:
        InputError: the fault is refused.
    """
    pairs = samples(PAIRS)
    pairs[BROKEN] = case.sample(pairs[BROKEN])
    format.write(folder, pairs)
    case.folder(folder)
    module = opened(format, folder, FaultPolicy(on_error, max_skipped=1_000))
    module.pairs("train")
    case.later(folder)
    return module, {index for batch in module.train_dataloader() for index in batch.index.tolist()}


def outcome(case: Case, format: Format, folder: Path) -> Outcome:
    """Training past the fault, and training that refuses it."""
    module, seen = trained(case, format, folder / "skip", "skip")
    log = module.log("train")
    refusal = ""
    try:
        trained(case, format, folder / "refuse", "refuse")
    except InputError as error:
        refusal = str(error)
    kinds = "; ".join(sorted({fault.kind for fault in log.found.values()}))
    return Outcome(seen, kinds, len(log), refusal)


def table(folder: Path) -> Iterator[str]:
    """The lines of a Markdown table of all cases."""
    yield "| what is wrong | in | `on_error: skip` | `on_error: refuse` |"
    yield "|---|---|---|---|"
    for number, case in enumerate(CASES):
        found = [outcome(case, FORMATS[name], folder / f"{number}-{name}") for name in case.formats]
        (kinds,) = {each.kinds for each in found}
        skipped = f"skipped and counted: *{kinds}*" if kinds else "used"
        refused = "refused by name" if all(each.refusal for each in found) else "used"
        yield f"| {case.name} | {', '.join(case.formats)} | {skipped} | {refused} |"


def main() -> None:
    """Print the table."""
    logging.getLogger("datamodules").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        for line in table(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
