"""One reader of pictures: training, sampling, references and evaluation see the same pixels."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from datamodules.pictures.decoding import PictureConfig, decode
from eval.samples import coco
from eval.samples.folder import SampleFolder, write_samples
from eval.samples.pictures import read_picture
from modules.images.files import ORIENTATION, PictureError, read_rgb
from modules.images.tensors import load_image

SIDE = 16
RAMP = np.linspace(0, 240, SIDE * SIDE).astype(np.uint8).reshape(SIDE, SIDE)
GREY = np.stack([RAMP] * 3, axis=-1)
TURNED = {  # EXIF 2.32, table of orientations: where row 0 and column 0 of the stored pixels belong.
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned_by(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(Image.fromarray(GREY), exif=exif), TURNED[orientation](GREY)


def over_white(alpha):
    return np.round(255 + (GREY.astype(float) - 255) * alpha / 255)


def palette():
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([10, 20, 30, 200, 210, 220])
    image.paste(1, (0, 0, SIDE, SIDE // 2))
    expected = np.full((SIDE, SIDE, 3), 255)
    expected[: SIDE // 2] = 200, 210, 220
    return saved(image, transparency=0), expected


CMYK = np.stack([255 - RAMP, np.full_like(RAMP, 55), np.zeros_like(RAMP), np.zeros_like(RAMP)], axis=-1)
CASES = {
    **{f"orientation {k}": turned_by(k) for k in TURNED},
    "clear": (saved(Image.fromarray(np.dstack([GREY, np.zeros_like(RAMP)]))), np.full_like(GREY, 255)),
    "half clear": (saved(Image.fromarray(np.dstack([GREY, np.full_like(RAMP, 128)]))), over_white(128)),
    "clear grey": (saved(Image.fromarray(np.dstack([RAMP, np.zeros_like(RAMP)]), "LA")), np.full_like(GREY, 255)),
    "palette": palette(),
    "16 bits": (saved(Image.fromarray(RAMP.astype(np.uint16) * 257)), GREY),
    "CMYK": (
        saved(Image.fromarray(CMYK, "CMYK"), "TIFF"),
        np.stack([RAMP, np.full_like(RAMP, 200), np.full_like(RAMP, 255)], axis=-1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reader_sees_the_same_right_pixels(tmp_path, name):
    content, expected = CASES[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    trained = decode(content, "a", SIDE, PictureConfig())
    np.testing.assert_allclose(trained, expected, atol=1)
    np.testing.assert_array_equal(np.asarray(read_rgb(path, "a")), trained)
    np.testing.assert_array_equal(np.asarray(read_picture(path, path)), trained)
    np.testing.assert_array_equal(np.asarray(coco.load_image(path, SIDE)), trained)
    sampled = ((load_image(path).permute(1, 2, 0).numpy() + 1) * 127.5).round()
    np.testing.assert_array_equal(sampled, trained)


@pytest.mark.parametrize("name", [name for name in CASES if name != "CMYK"])
def test_a_sample_folder_that_others_made_is_read_in_the_same_way(tmp_path, name):
    content, expected = CASES[name]
    record = {"caption": "a", "caption_index": 0, "sample_index": 0, "condition": "x"}
    folder = write_samples(tmp_path / "s", [Image.fromarray(GREY)], [record])
    (folder.path / "00000.png").write_bytes(content)
    line = (folder.path / "manifest.jsonl").read_text()
    (folder.path / "manifest.jsonl").write_text(line[: line.index(', "sha256"')] + "}\n")
    found = SampleFolder.open(folder.path).images()[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1)


def tiff_exif(*entries):
    content = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return content + b"".join(struct.pack("<HHI", tag, kind, n) + value for tag, kind, n, value in entries) + bytes(4)


ODD = {
    "resolution as text": ((0x011A, 2, 2, b"x\0\0\0"),),
    "value outside of the file": ((0x010E, 2, 400, b"\xff\xff\0\0"),),
    "unknown type": ((0x0100, 77, 1, b"\1\0\0\0"),),
    "sub-directory as text": ((0x8769, 2, 2, b"x\0\0\0"),),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_tags_do_no_harm(name, kind):
    exif = tiff_exif((ORIENTATION, 3, 1, b"\x06\0\0\0"), *ODD[name])
    content = saved(Image.new("RGB", (32, 16), "red"), kind, exif=exif)
    assert read_rgb(io.BytesIO(content), "a").size == (16, 32)
    assert decode(content, "a", 16, PictureConfig()).shape == (16, 16, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_exif_that_cannot_be_read_turns_nothing(exif):
    content = saved(Image.new("RGB", (32, 16), "red"), "JPEG", exif=exif)
    assert read_rgb(io.BytesIO(content), "a").size == (32, 16)


@pytest.mark.parametrize("zip", [True, False])
def test_long_text_in_a_png_does_no_harm(tmp_path, zip):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=zip)
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.fromarray(GREY), pnginfo=text))
    np.testing.assert_array_equal(np.asarray(read_rgb(path, "a")), GREY)
    assert load_image(path).shape == (3, SIDE, SIDE)
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20  # Pillow's own limit holds for everybody else.


@pytest.mark.parametrize(
    "error", [TypeError("x"), struct.error("x"), KeyError("x"), AttributeError("x"), OverflowError("x")]
)
def test_whatever_a_decoder_raises_is_a_damaged_picture(monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    content = saved(Image.new("L", (4, 4)))
    with pytest.raises(PictureError, match="a cannot be decoded"):
        read_rgb(io.BytesIO(content), "a", None)


def test_a_missing_picture_is_an_os_error_of_the_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.png", Path("none.png"))
