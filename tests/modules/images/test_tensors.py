"""Pictures as they come: turned, transparent, grey, deep, damaged or far too large."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from modules.errors import InputError
from modules.images.tensors import MAX_SIDE, Pictures, load_image, load_images, to_pil


def gradient(width=8, height=8) -> Image.Image:
    """Darker at the left, redder at the top."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = np.arange(width) * 20
    pixels[..., 0] = (np.arange(height) * 20)[::-1, None]
    return Image.fromarray(pixels)


def values(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


def test_a_plain_picture_comes_as_it_is(tmp_path):
    gradient().save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), gradient(), np.asarray(gradient()), values(gradient())):
        assert torch.equal(load_image(source), values(gradient()))


@pytest.mark.parametrize(
    ("orientation", "transpose"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)]
)
def test_exif_orientation_is_applied(tmp_path, orientation, transpose):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient().save(tmp_path / "a.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "a.png"), values(gradient().transpose(transpose)))


def test_transparency_lies_over_white():
    image = gradient().convert("RGBA")
    image.putalpha(Image.fromarray(np.full((8, 8), 0, np.uint8)))
    assert torch.equal(load_image(image), torch.ones(3, 8, 8))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0])
    palette.info["transparency"] = 0
    assert torch.equal(load_image(palette), torch.ones(3, 4, 4))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LAB", "HSV", "LA"])
def test_other_modes_become_rgb(mode):
    grey = Image.new("RGB", (6, 6), (128, 128, 128))
    made = {
        "LA": lambda: Image.new("L", (6, 6), 128).convert("LA"),
        "LAB": lambda: Image.new("LAB", (6, 6), (137, 128, 128)),
        "P": lambda: grey.quantize(2),
    }
    found = load_image(made.get(mode, lambda: grey.convert(mode))())
    assert found.shape == (3, 6, 6)
    assert found.abs().max() < 0.05 if mode != "1" else found.abs().min() == 1


def test_a_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert_close(load_image(tmp_path / "a.jpg")[:, 8, 8], torch.tensor([1.0, -1.0, -1.0]), atol=0.05, rtol=0)


def test_16_bits_keep_their_brightness(tmp_path):
    deep = np.array([[0, 65535], [32768, 200]], np.uint16)
    expected = (torch.tensor([[0, 255], [128, 1]]) / 127.5 - 1).expand(3, 2, 2)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert_close(load_image(tmp_path / "a.png"), expected)
    assert_close(load_image(Image.fromarray(deep.astype(np.int32))), expected)  # as older versions of Pillow open it


def test_what_is_not_square_is_cropped_to_its_middle():
    wide = gradient(12, 8)
    assert torch.equal(load_image(wide), values(wide)[:, :, 2:10])
    assert torch.equal(load_image(values(wide)), values(wide)[:, :, 2:10])


def test_large_pictures_are_reduced(tmp_path):
    Image.new("RGB", (3000, 2000), (10, 200, 30)).save(tmp_path / "a.jpg", quality=95)
    assert load_image(tmp_path / "a.jpg").shape == (3, MAX_SIDE, MAX_SIDE)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert_close(load_image(tmp_path / "a.gif")[:, 0, 0], torch.tensor([1.0, -1.0, -1.0]))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims many pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")


def test_bombs_are_refused_from_their_header(tmp_path):
    (tmp_path / "a.png").write_bytes(bomb(2**15, 2**13 + 1))
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(), pytest.raises(InputError, match=r"a\.png has 32768 x 8193 pixels, over .* 2\^28"):
        warnings.simplefilter("error")
        load_image(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


def test_truncated_and_foreign_files_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for name in ("a.png", "a.jpg", "a.webp"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=rf"{name} (cannot be decoded|is no picture)"):
            load_image(tmp_path / name)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    for name, message in (
        ("empty.png", "is no picture"),
        ("text.png", "is no picture"),
        ("absent.png", "No such file"),
        (".", "name a picture file"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_image(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(2, 3, 4, 4), "one picture is"),
        (torch.zeros(4, 4, 3), "one picture is"),
        (torch.zeros(3, 0, 4), "one picture is"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8 or floating-point"),
        (torch.full((3, 4, 4), 255.0), r"in \[255, 255\]: rescale"),
        (torch.full((3, 4, 4), float("nan")), "rescale"),
        (np.zeros((4, 4), np.float32), "an array is"),
        (Image.new("F", (4, 4)), "floating-point values"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "outside 0 to 65535"),
        (3, "not int"),
    ],
)
def test_what_is_unclear_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_image(source)


def test_several_pictures_come_at_the_largest_side_so_that_none_loses_anything():
    batch = load_images([values(gradient(6, 6)), gradient(8, 8)])
    assert batch.shape == (2, 3, 8, 8)
    assert torch.equal(batch[1], values(gradient(8, 8)))
    assert_close(batch[0], load_images(gradient(6, 6), size=8)[0])
    assert torch.equal(load_images(torch.zeros(2, 3, 5, 5)), torch.zeros(2, 3, 5, 5))
    assert load_images(gradient(), size=4).shape == (1, 3, 4, 4)
    with pytest.raises(InputError, match="no picture was given"):
        load_images([])


def test_pictures_hold_their_tensor():
    image = values(gradient())[None]
    made = Pictures(image)
    assert torch.equal(made.tensor, image)
    assert np.array_equal(np.asarray(made[0]), np.asarray(gradient()))
    assert torch.equal(load_image(to_pil(image[0])), image[0])


def test_a_list_of_pictures_is_a_grid():
    import io

    import numpy as np
    from PIL import Image

    from modules.images.tensors import Pictures

    pictures = Pictures(torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 1.0)]))
    sheet = np.asarray(pictures.grid(columns=2, gap=1))
    assert sheet.shape == (9, 9, 3)
    assert (sheet[:4, :4] == 0).all() and (sheet[:4, 5:] == 128).all() and (sheet[:, 4] == 255).all()
    assert (sheet[5:] == 255).all()  # The third is white, and its neighbour is the ground.
    shown = Image.open(io.BytesIO(pictures._repr_png_()))
    assert shown.size == (3 * 4 + 2 * 2, 4)
    empty = Pictures(torch.zeros(0, 3, 4, 4))
    assert empty._repr_png_() is None
    with pytest.raises(InputError, match="no picture to show"):
        empty.grid()
