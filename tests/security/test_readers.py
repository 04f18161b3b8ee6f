"""Every reader of what a stranger sends is bounded: tables, records, archives, captions, pictures of every format."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datamodules.coco import read_captions as coco_captions
from datamodules.embeddings import shards
from datamodules.pictures.tables import rows_of
from datamodules.rendered import iconify
from datamodules.webdataset import WebDatasetDataModule
from eval.errors import InputError as EvalInputError
from eval.judges.aesthetics import read_ratings
from eval.judges.preference import read_comparisons
from eval.samples.coco import read_annotations
from eval.samples.shards import Shards
from eval.votes.votes import read_votes
from experiments.console.configs import read_alone
from experiments.console.progress import read_progress
from experiments.sampling.captions import read_requests
from experiments.storage.folders import read_json
from experiments.suites.staging import content_of
from experiments.sweeps.plan import Plan
from experiments.training.boards import HyperParameters
from experiments.training.stage_folder import RunFolder
from modules.errors import InputError
from modules.images.files import PictureError, read_rgb

REFUSALS = (InputError, EvalInputError)

READERS = {
    "a table of captions": ("metadata.jsonl", lambda path: list(rows_of(path, {"caption": "text"}))),
    "a csv of captions": ("metadata.csv", lambda path: list(rows_of(path, {"caption": "text"}))),
    "COCO in training": ("captions.json", coco_captions),
    "COCO in an evaluation": ("captions.json", read_annotations),
    "votes": ("a.jsonl", lambda path: read_votes(path, None)),
    "ratings": ("a.csv", read_ratings),
    "comparisons": ("a.csv", read_comparisons),
    "captions in parquet": ("metadata_0.parquet", shards.read_captions),
    "a package of drawings": ("iconify-json-x.tgz", iconify._archive_reader),
    "a shard": ("a.tar", lambda path: WebDatasetDataModule(str(path), image_size=8).pairs("train")),
    "captions for sampling": ("a.txt", lambda path: read_requests(None, path)),
    "a manifest for sampling": ("manifest.jsonl", lambda path: read_requests(None, path)),
    "a sweep": ("a.yaml", Plan.load),
    "a config": ("a.yaml", read_alone),
}


@pytest.mark.parametrize("what", READERS)
def test_no_reader_waits_for_a_fifo(tmp_path, what):
    name, read = READERS[what]
    pytest.importorskip({"a shard": "webdataset", "captions in parquet": "pyarrow"}.get(what, "json"))
    os.mkfifo(tmp_path / name)
    with pytest.raises(REFUSALS, match=r"FIFO|no pairs"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_json, read_progress])
def test_records_that_are_none_are_passed_over(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "digits").write_text("9" * 5000)
    for name in ("fifo", "deep", "digits", "absent"):
        assert not read(tmp_path / name)


def laughs(levels=9):
    names = "abcdefghijkl"
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{names[k + 1]}: &{names[k + 1]} [{','.join([f'*{names[k]}'] * 9)}]" for k in range(levels)]
    return "\n".join(lines) + "\n"


def test_a_runs_own_config_is_bounded(tmp_path):
    (tmp_path / "config.yaml").write_text(laughs())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"x")
    trainer = SimpleNamespace(
        default_root_dir=str(tmp_path), is_global_zero=True, fast_dev_run=False, loggers=[object()]
    )
    for read in (
        lambda: RunFolder(tmp_path).check({}, None, overwrite=False),
        lambda: HyperParameters().on_train_start(trainer, None),
        lambda: read_alone(tmp_path / "config.yaml"),
        lambda: Plan.load(tmp_path / "config.yaml"),
    ):
        with pytest.raises(InputError, match="over 20,000 values when its aliases are written out"):
            read()
    assert isinstance(content_of(tmp_path / "config.yaml"), str)  # Its checksum.


class Zeros(io.RawIOBase):
    """So many zeros, made as they are read."""

    def __init__(self, count):
        self.left = count

    def readable(self):
        return True

    def read(self, size=-1):
        size = min(self.left, size if size >= 0 else self.left)
        self.left -= size
        return bytes(size)


def package(path, *members):
    with gzip.open(path, "wb", compresslevel=1) as file, tarfile.open(fileobj=file, mode="w|") as archive:
        for name, size, kind in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = size, kind
            archive.addfile(member, Zeros(size))
    return path


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_archive_is_bounded_when_it_is_unpacked(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(iconify, "UNPACKED", 2**20)
    path = package(tmp_path / "a.tgz", ("package/big", 2**22, kind), ("package/icons.json", 2, tarfile.REGTYPE))
    with pytest.raises(InputError, match="over 1 MB when it is unpacked"):
        iconify._archive_reader(path)


def test_captions_are_bounded_when_they_are_written_out(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "metadata_0.parquet"
    monkeypatch.setattr(shards, "MAX_CAPTIONS", 2**22)
    # One text of 100 kB, 10,000 times: 1 GB in a file of some kB.
    text = arrow.array(["x" * 100_000])
    parquet.write_table(arrow.table({"caption": text.take(arrow.array([0] * 10_000))}), path)
    assert path.stat().st_size < 2**18
    with pytest.raises(InputError, match="its captions have over 4,194,304 bytes"):
        shards.read_captions(path)
    parquet.write_table(arrow.table({"caption": ["x" * 2**23]}), path, use_dictionary=False, compression="zstd")
    with pytest.raises(InputError, match="says that it holds 1 captions of 8,388,6"):
        shards.read_captions(path)
    monkeypatch.setattr(shards, "MAX_ROWS", 100)
    parquet.write_table(arrow.table({"caption": ["x"] * 101}), path)
    with pytest.raises(InputError, match="says that it holds 101 captions"):
        shards.read_captions(path)


def test_captions_are_those_that_were_written(tmp_path):
    pytest.importorskip("pyarrow")
    captions = ["a", None, "", "é 红", *["the same"] * 5, *map(str, range(200_000))]
    shards.write_captions(tmp_path / "metadata_0.parquet", captions)
    assert shards.read_captions(tmp_path / "metadata_0.parquet").to_pylist() == captions


# --- pictures ---


def tiff(*tags):
    """A little-endian TIFF with one strip or tile of one byte."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4) + b"\0"


GREY_TIFF = ((258, 8), (259, 8), (262, 1), (277, 1))


def saved(size, kind, mode="RGB", **options):
    out = io.BytesIO()
    Image.new(mode, (8, 8)).save(out, kind, **options)
    return out.getvalue()


def webp(side):
    """The header of a picture with an alpha channel and an animation (VP8X) of that canvas."""
    canvas = (side - 1).to_bytes(3, "little") * 2
    frame = saved(8, "WEBP", lossless=True)[12:]
    chunk = b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(6) + (7).to_bytes(3, "little") * 2 + bytes(4) + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02" + bytes(3) + canvas
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(side, frame=None):
    """A GIF of one white pixel in a frame of another size than the screen's."""
    wide = struct.pack("<HH", *[side if frame is None else frame] * 2)
    screen = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    return screen + b"," + bytes(4) + wide + b"\0\x02\x02\x4c\x01\0;"


def ico(side):
    """An icon that says 1 x 1 and holds a PNG of that side."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 1, 1, 0, 0, 1, 32, len(png), 22) + png


def progressive(side):
    content = bytearray(saved(8, "JPEG", progressive=True))
    place = content.index(b"\xff\xc2") + 5  # Of the frame's height and width.
    content[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(content)


BOMBS = {
    "TIFF": tiff((256, 40_000), (257, 40_000), (273, 100), (278, 40_000), (279, 1), *GREY_TIFF),
    "TIFF of one large tile": tiff((256, 9), (257, 9), (322, 40_000), (323, 40_000), (324, 100), (325, 1), *GREY_TIFF),
    "WEBP, animated": webp(16_000),
    "GIF": gif(20_000),
    "GIF of a large frame": gif(1, 20_000),
    "JPEG, progressive": progressive(12_000),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_picture_of_any_format_is_bounded_before_it_is_decoded(what):
    with pytest.raises(PictureError, match="over the limit"):
        read_rgb(io.BytesIO(BOMBS[what]), "x")


@pytest.mark.parametrize(
    "content", [ico(30_000), b"icns" + struct.pack(">I", 8), b"%!PS-Adobe-3.0 EPSF-3.0\n"], ids=["ICO", "ICNS", "EPS"]
)
def test_formats_that_hold_others_or_call_programs_are_not_read(content):
    with pytest.raises(PictureError, match="is no picture that can be read"):
        read_rgb(io.BytesIO(content), "x")


def test_of_an_animation_the_first_frame_is_read_alone():
    frames = [Image.new("RGB", (16, 16), (k, 0, 0)) for k in range(200)]
    for kind in ("GIF", "WEBP", "PNG"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:], lossless=True)
        assert np.asarray(read_rgb(io.BytesIO(out.getvalue()), "x")).max() == 0


# --- unfinished sample folders ---


def test_an_unfinished_sample_folder_of_a_stranger_names_its_own_pictures(tmp_path):
    writer = Shards(tmp_path / "out")
    writer.path.mkdir()
    (tmp_path / "unclip-canary.png").write_bytes(b"secret")
    whole = {"caption": "a", "caption_index": 0, "sample_index": 0, "condition": "real"}
    lines = [
        *({**whole, "file": name} for name in ("../unclip-canary.png", "/etc/hostname", "a.png", "99.png", "..")),
        {"file": 3},
        ["x"],
        {**whole, "file": "00001.png", "sha256": 3},
        {**whole, "file": "00002.png"},
    ]
    text = "\n".join([*map(json.dumps, lines), "[" * 100_000, "{", ""])
    (writer.path / "shard-0-x.jsonl").write_text(text)
    (writer.path / "request.json").write_text("{}")
    (writer.path / "00001.png").symlink_to(tmp_path / "unclip-canary.png")
    os.mkfifo(writer.path / "00002.png")
    assert sorted(writer.lines()) == [1, 2]
    with writer.started({}) as done:
        assert done == 0  # None of them is whole.
    assert Path(tmp_path / "unclip-canary.png").read_bytes() == b"secret"


def test_a_field_without_end_in_a_csv_is_one_line(tmp_path):
    """The limit of Python's reader is the process's, and other readers move it."""
    import csv

    path, before = tmp_path / "a.csv", csv.field_size_limit(131_072)
    try:
        for head, read in (
            ("ballot,item,choice,voter", lambda: read_votes(path, None)),
            ("image,rating", lambda: read_ratings(path)),
            ("better,worse", lambda: read_comparisons(path)),
        ):
            path.write_text(f"{head}\n{'x' * 200_000},1,left,a\n")
            with pytest.raises(EvalInputError, match="cannot read the"):
                read()
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize("name", ["manifest.jsonl", "prompts.jsonl"])
@pytest.mark.parametrize("value", ["NaN", '"\\ud800"', "9" * 5000, "[" * 5000 + "]" * 5000])
def test_what_no_manifest_could_hold_is_refused_before_drawing(tmp_path, name, value):
    """What is known of a caption goes into the manifest of its pictures, which is written when they are drawn."""
    known = f'"sample_index": 0, "sign": {value}, "category": {value}'
    index = '"caption_index": 0, ' if name == "manifest.jsonl" else ""
    path = tmp_path / name
    path.write_text(f'{{"prompt": "a", "caption": "a", {index}{known}}}\n')
    with pytest.raises(REFUSALS, match=r"jsonl:1|is not a manifest of samples"):
        read_requests(None, path)
