"""`python -m benchmarks.made_up_data.broken_data`: every kind of broken file, and what training makes of it.

The table in docs/data.md is this program's output.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import shutil
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

from benchmarks.made_up_data.embedding_formats import EMBEDDINGS, TOKENIZER, write_embeddings
from benchmarks.made_up_data.formats import FORMATS, Format, Sample, encoded, samples
from datamodules.embeddings.shards import metadata_path, read_captions, shard_path, write_captions
from datamodules.faults import FaultPolicy
from datamodules.pictures.module import SplitConfig
from modules.errors import InputError

PAIRS, BROKEN = 24, 5
Plant = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """Something that is wrong.

    Attributes:
        name: what.
        kind: the kind of fault that must be found, or several with "; " between; None if the pair must be used.
        formats: those of `KINDS` in which it is planted.
        sample: changes the pair number `BROKEN` before it is written.
        folder: changes what was written.
        later: changes it after the pairs have been listed, as training would find it.
        refused: part of the line that refuses it whatever `on_error` says, or "": nothing is left of such data without
            the file.
    """

    name: str
    kind: str | None
    formats: tuple[str, ...] = ("text files", "shards")
    sample: Callable[[Sample], Sample] = lambda sample: sample
    folder: Plant = lambda folder: None
    later: Plant = lambda folder: None
    refused: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a case in one format.

    Attributes:
        seen: pairs that a pass of training showed.
        kinds: the kinds of faults that were counted, with "; " between.
        lost: pairs that were counted as lost.
        refusal: the line that `on_error: refuse` stops with; "" where it does not.
        stopped: the line that `on_error: skip` stops with, all the same.
    """

    seen: set[int]
    kinds: str
    lost: int
    refusal: str
    stopped: str


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


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Changes the second shard of picture embeddings."""

    def plant(folder: Path) -> None:
        path = shard_path(folder / "train", "z_i", 1)
        np.save(path, change(np.load(path)), allow_pickle=True)

    return plant


def _bytes(change: Callable[[bytes], bytes]) -> Plant:
    """Changes that file's content."""

    def plant(folder: Path) -> None:
        path = shard_path(folder / "train", "z_i", 1)
        path.write_bytes(change(path.read_bytes()))

    return plant


def _remove(*names: str) -> Plant:
    """Removes the files of those patterns."""

    def plant(folder: Path) -> None:
        for name in names:
            for path in list(folder.rglob(name)):
                path.unlink()

    return plant


def _null_caption(folder: Path) -> None:
    path = metadata_path(folder / "train", 0)
    write_captions(path, [None if row == BROKEN else text for row, text in enumerate(read_captions(path).to_pylist())])


def _another_pairs_row(folder: Path) -> None:
    shutil.rmtree(folder)
    write_embeddings(folder, samples(PAIRS), replaced={BROKEN: 0})


def _comma(folder: Path) -> None:
    path = folder / "metadata.csv"
    lines = path.read_text().splitlines()
    lines[BROKEN] += ", on a branch"
    path.write_text("\n".join(lines))


def _cut_parquet(folder: Path) -> None:
    path = metadata_path(folder / "train", 1)
    path.write_bytes(path.read_bytes()[:100])


_UNREADABLE = "img_emb_1.npy: not a readable array"

KINDS = {
    **FORMATS,
    **EMBEDDINGS,
    "a range of shards": replace(
        FORMATS["shards"], init_args={"train": "FOLDER/{00000..00002}.tar", "cache_dir": None}
    ),
}

_JSONL, _COCO, _SHARDS, _ARRAYS = ("metadata.jsonl",), ("COCO",), ("shards",), tuple(EMBEDDINGS)

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
    Case("shard that is missing", "a missing shard", ("a range of shards",), folder=lambda f: _shard(f).unlink()),
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
        "a path that leads out of the folder",
        _JSONL,
        folder=_edit_line(_renamed(lambda: "../up.jpg")),
    ),
    Case(
        "line that is not JSON",
        "a line that is not JSON",
        _JSONL,
        folder=_edit_line(lambda line: line[:-5]),
    ),
    Case("line with too many fields", "a line with too many fields", ("metadata.csv",), folder=_comma),
    Case(".npy of another dtype", None, _ARRAYS, folder=_array(lambda a: a.astype("f8")), refused="float64"),
    Case(".npy of another width", None, _ARRAYS, folder=_array(lambda a: a[:, :-1]), refused="15"),
    Case(".npy of too few rows", None, _ARRAYS, folder=_array(lambda a: a[:-1]), refused="rows in"),
    Case(".npy that is cut off", None, _ARRAYS, folder=_bytes(lambda d: d[: len(d) // 2]), refused=_UNREADABLE),
    Case(
        ".npy of pickled objects",
        None,
        _ARRAYS,
        folder=_array(lambda a: np.array([Explosive()] * len(a), object)),
        refused=_UNREADABLE,
    ),
    Case("pickle named .npy", None, _ARRAYS, folder=_bytes(lambda data: PICKLE), refused=_UNREADABLE),
    Case(".npy that is missing", None, _ARRAYS, folder=_remove("img_emb_1.npy"), refused="img_emb"),
    Case("shard of embeddings that is missing", None, _ARRAYS[:1], folder=_remove("*_1.*"), refused="rows in 2 shards"),
    Case("number missing among shards", "a missing shard", _ARRAYS[1:], folder=_remove("*_1.*")),
    Case("shard of embeddings that vanishes", None, _ARRAYS, later=_remove("*_1.npy")),
    Case("parquet that is cut off", None, _ARRAYS[1:], folder=_cut_parquet, refused="not readable as parquet"),
    Case("null for a caption", "no caption", _ARRAYS[1:], folder=_null_caption),
    Case(
        "row of another pair, its own being unreadable",
        "a row that holds another pair",
        _ARRAYS[:1],
        folder=_another_pairs_row,
    ),
)


def opened(format: Format, folder: Path, policy: FaultPolicy) -> Any:
    """The DataModule of those data, all pairs of which are for training."""
    if format in EMBEDDINGS.values():
        return format.open(folder, batch_size=4, tokenizer=TOKENIZER, faults=policy)
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
    module.dataset("train")
    case.later(folder)
    return module, {index for batch in module.train_dataloader() for index in batch.index.tolist()}


def outcome(case: Case, format: Format, folder: Path) -> Outcome:
    """Training past the fault, and training that refuses it."""
    seen: set[int] = set()
    kinds, lost, lines = "", 0, {"skip": "", "refuse": ""}
    try:
        module, seen = trained(case, format, folder / "skip", "skip")
        kinds = "; ".join(sorted({fault.kind for fault in module.log("train").found.values()}))
        lost = len(module.log("train"))
    except InputError as error:
        lines["skip"] = str(error)
    try:
        trained(case, format, folder / "refuse", "refuse")
    except InputError as error:
        lines["refuse"] = str(error)
    return Outcome(seen, kinds, lost, lines["refuse"], lines["skip"])


HEAD = ("| what is wrong | in | `on_error: skip` | `on_error: refuse` |", "|---|---|---|---|")


def line(case: Case, kinds: str, stopped: bool, refused: bool) -> str:
    """Of the table."""
    skipped = "refused by name" if stopped else f"skipped and counted: *{kinds}*" if kinds else "used"
    return f"| {case.name} | {', '.join(case.formats)} | {skipped} | {'refused by name' if refused else 'used'} |"


def table(folder: Path) -> Iterator[str]:
    """The lines of a Markdown table of all cases."""
    yield from HEAD
    for number, case in enumerate(CASES):
        found = [outcome(case, KINDS[name], folder / f"{number}-{name}") for name in case.formats]
        ((kinds, stopped, refused),) = {(each.kinds, bool(each.stopped), bool(each.refusal)) for each in found}
        yield line(case, kinds, stopped, refused)


def main() -> None:
    """Print the table."""
    logging.getLogger("datamodules").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        for line in table(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
