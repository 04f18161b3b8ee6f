"""Small inputs that would take all memory or time: each is one line."""

from __future__ import annotations

import io
import random
import resource
import struct
import time
import zlib

import pytest
from PIL import Image

from datamodules.captions import CaptionFault, clean
from datamodules.pictures.decoding import PictureConfig, decode
from datamodules.rendered.iconify import Icon, render
from datamodules.rendered.svg import check_svg
from datamodules.webdataset import expand, written_out
from eval.errors import InputError as EvalInputError
from eval.samples.captions import read_table
from modules.clip.word_tokenizer import LONGEST_WORD, WholeCaptions
from modules.errors import InputError
from modules.images.files import PictureError
from modules.models.exports import load_model
from modules.untrusted.reading import MAX_CONFIG, parse_json, parse_yaml


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side, bits, colour, data=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("side", "bits", "colour"),
    [(16385, 8, 2), (7400, 8, 6), (7400, 16, 6), (7400, 8, 4), (7400, 16, 4), (11000, 16, 0), (15000, 8, 0)],
    ids=["RGB", "RGBA", "RGBA 16", "LA", "LA 16", "grey 16", "grey"],
)
def test_a_picture_is_bounded_by_what_it_takes_to_decode(side, bits, colour):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PictureError, match="over the limit") as error:
        decode(png(side, bits, colour), "x", 64, PictureConfig())
    assert error.value.kind == "a picture of too many pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_grey_of_16_bits_is_what_it_was():
    import numpy as np

    values = np.random.default_rng(0).integers(0, 65536, (700, 3)).astype(np.uint16)
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    from modules.images.files import as_rgb, opened

    with opened(io.BytesIO(out.getvalue()), "x") as image:
        found = np.asarray(as_rgb(image, "x"))
    assert (found[..., 0] == ((values.astype(np.int64) + 128) // 257)).all()


LEVELS = "abcdefghijklmnop"


def laughs(levels, merge=False):
    first = "a: &a {k: v}\n" if merge else "a: &a [x,x,x,x,x,x,x,x,x]\n"
    lines = [first]
    for k in range(levels):
        nine = ",".join([f"*{LEVELS[k]}"] * 9)
        lines.append(f"{LEVELS[k + 1]}: &{LEVELS[k + 1]} " + (f"{{<<: [{nine}]}}\n" if merge else f"[{nine}]\n"))
    return "".join(lines)


YAMLS = {
    "6 levels": laughs(6),
    "15 levels": laughs(15),
    "merges": laughs(9, merge=True),
    "an alias in itself": "a: &a [*a]",
    "depth": "[" * 300 + "]" * 300,
    "digits": "a: " + "9" * 5000,
    "a number of 200 bits": f"a: {2**200}",
    "no date": "a: 2026-99-99",
}


@pytest.mark.parametrize("what", YAMLS)
def test_yaml_is_bounded(config_of, sent, what):
    start = time.process_time()
    with pytest.raises(InputError, match="config"):
        parse_yaml(YAMLS[what], "config")
    assert time.process_time() - start < 5
    folder = sent / "decoder"
    (folder / "export" / "config.yaml").write_text(YAMLS[what] + "\n")
    with pytest.raises(InputError, match="decoder"):
        load_model(folder)


def test_a_configs_size_is_bounded(sent):
    path = sent / "decoder" / "export" / "config.yaml"
    path.write_text(path.read_text() + "#" * MAX_CONFIG)
    with pytest.raises(InputError, match="more than such a file may have"):
        load_model(sent / "decoder")


def test_aliases_of_ordinary_configs_are_read():
    assert parse_yaml("a: &x [0.9, 0.99]\nb: *x\nc: {<<: {d: 1}, e: 2}", "x") == {
        "a": [0.9, 0.99],
        "b": [0.9, 0.99],
        "c": {"d": 1, "e": 2},
    }


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 70 + "]" * 70, "9" * 5000, "1e999", "-Infinity", "1" + "0" * 30])
def test_json_is_bounded(text):
    with pytest.raises(InputError, match="x"):
        parse_json(text, "x")


DRAWINGS = {
    "a picture": '<image width="16" height="16" href="PLACE"/>',
    "a picture by an old link": '<image width="16" height="16" xlink:href="PLACE"/>',
    "a picture in another name": '<x:image xmlns:x="http://www.w3.org/2000/svg" width="9" height="9" href="PLACE"/>',
    "a filter": '<filter id="f"><feImage href="PLACE"/></filter><rect width="9" height="9" filter="url(#f)"/>',
    "another drawing": '<use href="PLACE#a"/>',
    "a style": "<style>@import url('PLACE');</style>",
    "a fill": "<rect width='9' height='9' fill='url(PLACE#a)'/>",
    "an entity": '</svg><!DOCTYPE svg [<!ENTITY a SYSTEM "PLACE">]><svg><text>&a;</text>',
    "a link in references": '<use href="&#47;etc&#47;passwd"/>',
    "a script": "<script>1</script>",
    "a picture in a name of marks": '<a\u0300:image xmlns:a\u0300="http://www.w3.org/2000/svg" href="#x"/>',
    "an import in references": "<style>&#64;import 'PLACE';</style>",
    "an import in CDATA": "<style><![CDATA[@import 'PLACE';]]></style>",
    "an escape of CSS": "<style>rect { fill: u\\72l('PLACE') }</style>",
    "a tag without end": "<a" + "a" * 20_000,
    "tags without end": "<a " * 20_000,
    "a link of spaces": "<rect fill='url(" + " " * 30_000 + "PLACE)'/>",
    "depth": "<g>" * 100_000 + "</g>" * 100_000,
    "size": "<!--" + "x" * 2**20 + "-->",
}


@pytest.mark.parametrize("what", DRAWINGS)
def test_a_drawing_names_no_file_and_has_bounds(tmp_path, what):
    pytest.importorskip("resvg_py")
    place = tmp_path / "unclip-canary.png"
    Image.new("RGB", (40, 40), "red").save(place)
    with pytest.raises(InputError, match="the drawing 'x' can't be rendered"):
        render(Icon("x", DRAWINGS[what].replace("PLACE", str(place)), (0, 0, 16, 16), ()), 32)


def test_a_drawing_that_kills_the_renderer_is_named_and_the_next_is_drawn():
    pytest.importorskip("resvg_py")
    rect = '<rect width="9" height="9" fill="white"/>'
    masks = "".join(f'<mask id="a{k + 1}" mask="url(#a{k})">{rect}</mask>' for k in range(9000))
    body = f'<defs><mask id="a0">{rect}</mask>{masks}</defs><rect width="9" height="9" mask="url(#a9000)"/>'
    with pytest.raises(InputError, match="the drawing 'x' can't be rendered"):
        render(Icon("x", body, (0, 0, 16, 16), ()), 32)
    after = render(Icon("y", '<rect width="16" height="16" fill="#00f"/>', (0, 0, 16, 16), ()), 8)
    assert after.shape == (8, 8, 3) and (after == (0, 0, 255)).all()


def test_ordinary_drawings_pass():
    for body in ('<use href="#a"/>', "<path fill='url(#a)' d='M0 0'/>", '<a xlink:href="#x"/>', "<g><g/></g>" * 400):
        check_svg(f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body}</svg>')


def test_a_word_without_end_is_no_caption():
    word = "".join(random.Random(0).choices("etaoinshrdlu", k=16_000))
    with pytest.raises(CaptionFault, match="too long"):
        clean(word, 256)
    assert clean("\u7ea2" * 60 + ".", 3) == "\u7ea2" * 60 + "."
    seen = []

    def tokenizer(captions, context_length=8):
        import torch

        seen.extend(captions)
        return torch.ones(len(captions), context_length, dtype=torch.int64)

    WholeCaptions(tokenizer).cutting([word])
    assert max(map(len, seen)) == LONGEST_WORD


DEEP = "[" * 100_000


def test_deep_json_is_one_line_to_every_reader(tmp_path):
    from argparse import Namespace

    from datamodules.coco import read_captions as training_captions
    from eval.errors import InputError as EvalInputError
    from eval.samples.coco import read_annotations
    from eval.votes.votes import _parsed
    from experiments.manipulations.common import captions_of
    from experiments.sampling.captions import _from_manifest

    path = tmp_path / "samples" / "real" / "manifest.jsonl"
    path.parent.mkdir(parents=True)
    for text in (DEEP, "3"):
        path.write_text(text)
        with pytest.raises(EvalInputError, match="COCO"):
            read_annotations(path)
        with pytest.raises(InputError, match="COCO"):
            training_captions(path)
        with pytest.raises((InputError, EvalInputError), match="not a manifest"):
            _from_manifest(path)
        with pytest.raises(InputError, match="not a manifest"):
            captions_of(Namespace(captions=None, run=tmp_path, n=3))
    assert _parsed(DEEP) is None


def test_a_table_of_captions_is_bounded_when_it_is_written_out(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "captions.parquet"
    # One text of 100 kB, 100 times: 10 MB in a file of some kB.
    monkeypatch.setattr("eval.samples.parquet.MAX_BYTES", 2**20)
    text = arrow.array(["x" * 100_000])
    parquet.write_table(arrow.table({"caption": text.take(arrow.array([0] * 100))}), path)
    assert path.stat().st_size < 2**18
    with pytest.raises(EvalInputError, match="its texts have over 1,048,576 bytes"):
        read_table(path)
    parquet.write_table(arrow.table({"caption": [["a", "b"]], "file_name": ["0.png"]}), path)
    with pytest.raises(EvalInputError, match="the column 'caption' holds list<"):
        read_table(path)
    monkeypatch.setattr("eval.samples.parquet.MAX_ROWS", 3)
    parquet.write_table(arrow.table({"caption": ["a"] * 4}), path)
    with pytest.raises(EvalInputError, match="says that it holds 4 rows"):
        read_table(path)
    parquet.write_table(arrow.table({"Prompt": ["a", None, "é"], "x": [1, 2, 3]}), path)
    assert read_table(path) == [{"Prompt": "a"}, {"Prompt": None}, {"Prompt": "é"}]
    path.write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    with pytest.raises(EvalInputError, match="cannot read the captions"):
        read_table(path)


@pytest.mark.parametrize("names", ["{0..99999999}", "{0..9}" * 8, "{00..99}{a,b,c}{000..999}{0..9}"])
def test_braces_that_mean_shards_without_end_are_not_written_out(names):
    pytest.importorskip("webdataset")
    with pytest.raises(InputError, match="its braces mean over 1,000,000 shards"):
        expand(f"x/{names}.tar")


def test_braces_of_ordinary_data_are_written_out():
    pytest.importorskip("webdataset")
    assert len(expand("a/{000..119}.tar::b/{0..9}.tar")) == 130
    assert written_out("laion/{00000..41455}.tar") == 41_456 and written_out("{a,b}{0..1}.tar") == 4
