"""Bytes to pixels: every mode, EXIF, crops, drafts, flips that captions allow."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_up_data.broken_data import animated, bomb, reencoded, sixteen_bits, turned
from benchmarks.made_up_data.formats import encoded
from datamodules.pictures.decoding import PictureConfig, decode, may_mirror, mirrored
from modules.errors import InputError

PLAIN = PictureConfig()


def gradient(width=64, height=64):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def jpeg(image, **options):
    return encoded(image, "JPEG", quality=95, **options)


def test_pixels_are_those_of_the_file():
    image = gradient()
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), "x", 64, PLAIN), np.asarray(image))
    smaller = decode(encoded(image, "PNG"), "x", 16, PLAIN)
    np.testing.assert_array_equal(smaller, np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = decode(encoded(Image.fromarray(stripes), "PNG"), "x", 8, PLAIN)
    assert np.abs(found.astype(int) - 127).max() < 30


def test_the_centre_is_cut_out_of_what_is_not_square():
    wide, tall = gradient(96, 64), gradient(64, 95)
    np.testing.assert_array_equal(decode(encoded(wide, "PNG"), "x", 64, PLAIN), np.asarray(wide)[:, 16:80])
    np.testing.assert_array_equal(decode(encoded(tall, "PNG"), "x", 64, PLAIN), np.asarray(tall)[15:79])


def test_random_crops_reach_every_place_along_the_longer_side_and_no_other():
    wide = gradient(68, 64)
    data, config = encoded(wide, "PNG"), PictureConfig(crop="random")
    found = {decode(data, "x", 64, config, np.random.default_rng(k)).tobytes() for k in range(60)}
    assert found == {np.asarray(wide)[:, k : k + 64].tobytes() for k in range(5)}
    np.testing.assert_array_equal(decode(data, "x", 64, config, None), np.asarray(wide)[:, 2:66])
    assert decode(data, "x", 64, PLAIN, np.random.default_rng(3)).tobytes() == np.asarray(wide)[:, 2:66].tobytes()


@pytest.mark.parametrize(
    "make",
    [
        reencoded("PNG", lambda image: image),
        reencoded("WEBP", lambda image: image, lossless=True),
        reencoded("BMP", lambda image: image),
        reencoded("TIFF", lambda image: image),
        reencoded("JPEG", lambda image: image.convert("CMYK"), quality=98),
        reencoded("PNG", lambda image: image.quantize(256)),
        reencoded("PNG", lambda image: image.convert("RGBA")),
        animated,
        turned,
    ],
)
def test_every_kind_of_file_shows_the_same_picture(make):
    data = jpeg(gradient())
    expected = decode(data, "x", 32, PictureConfig(draft=False)).astype(int)
    found = decode(make(data), "x", 32, PictureConfig(draft=False)).astype(int)
    assert np.abs(found - expected).mean() < 8


def test_sixteen_bits_and_transparency():
    grey = decode(encoded(sixteen_bits(gradient()), "PNG"), "x", 64, PLAIN)
    assert np.abs(grey.astype(int) - np.asarray(gradient().convert("L"))[..., None]).max() <= 1
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert decode(encoded(clear, "PNG"), "x", 16, PLAIN).min() == 255


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("lime", "red")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data, "x", 16, PLAIN)[8, 8].tolist() == [0, 255, 0]


@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_drafts_decode_less_and_look_the_same(margin, monkeypatch):
    rng = np.random.default_rng(0)
    low = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8))
    data = jpeg(low.resize((256, 256), Image.Resampling.BICUBIC))
    sizes = []
    plain = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: sizes.append(self.size) or plain(self, *a, **k))
    full = decode(data, "x", 60, PictureConfig(draft=False)).astype(int)
    drafted = decode(data, "x", 60, PictureConfig(draft_margin=margin)).astype(int)
    assert sizes == [(256, 256), (64, 64) if margin == 1 else (128, 128)]
    assert np.abs(full - drafted).mean() < (4 if margin == 1 else 2)


def test_a_draft_is_never_smaller_than_what_is_asked_for():
    data = jpeg(gradient(256, 130))
    full, drafted = (decode(data, "x", 64, PictureConfig(draft=draft)) for draft in (False, True))
    assert np.abs(full.astype(int) - drafted).mean() < 3
    assert (
        np.abs(decode(data, "x", 200, PLAIN).astype(int) - decode(data, "x", 200, PictureConfig(draft=False))).max()
        == 0
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x is no picture that can be read"),
        (b"<html>", "x is no picture that can be read"),
        (jpeg(gradient())[:400], "x cannot be decoded .*truncated"),
        (encoded(gradient(), "PNG")[:100], "x cannot be decoded .*truncated"),
        (bomb(), r"x has 40000 x 40000 pixels, over the limit of 2\^28"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "floating-point"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "x is no picture that can be read"),
    ],
)
def test_what_is_no_picture_is_named(data, message):
    with pytest.raises(InputError, match=message):
        decode(data, "x", 16, PLAIN)


def test_a_bomb_is_refused_by_its_header():
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(InputError, match="over the limit"):
        decode(bomb(), "x", 16, PLAIN)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("caption", "allowed"),
    [
        ("a dog on a sofa", True),
        ("leftover pizza, upright", True),
        ("a bright light", True),
        ("a red circle left of a cross", False),
        ("The Left-hand door", False),
        ("rightmost window", False),
        ("right.", False),
        ("a sign that says stop", False),
        ("turning clockwise", False),
        ("turning anti-clockwise", False),
    ],
)
def test_a_caption_that_tells_sides_or_writing_forbids_the_mirror(caption, allowed):
    assert may_mirror(caption) is allowed
    pixels = np.asarray(gradient(8, 8))
    config = PictureConfig(flip=True)
    found = [mirrored(pixels, caption, config, np.random.default_rng(k)) for k in range(40)]
    turned_round = sum(np.array_equal(image, pixels[:, ::-1]) for image in found)
    assert (8 < turned_round < 32) if allowed else turned_round == 0
    assert all(np.array_equal(mirrored(pixels, caption, PLAIN, np.random.default_rng(k)), pixels) for k in range(8))


def test_pillows_own_limit_is_as_before():
    before = Image.MAX_IMAGE_PIXELS
    decode(jpeg(gradient()), "x", 16, PLAIN)
    assert before == Image.MAX_IMAGE_PIXELS
