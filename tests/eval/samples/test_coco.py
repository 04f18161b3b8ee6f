"""A COCO-format folder made here, through the whole zero-shot protocol: captions, real images, measuring, the table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.errors import InputError
from eval.protocol import CaptionProtocol, captions_digest
from eval.samples.coco import export, load_image
from eval.samples.folder import SampleFolder, write_samples

SIZE = 16


def run(coco: Path, out: str = "out", **settings) -> tuple[SampleFolder, list[dict]]:
    protocol = CaptionProtocol(**{"name": "dry", "captions": 10, "size": SIZE, **settings})
    folder = export(coco / "captions_val2014.json", coco / "val2014", coco / out, protocol)
    return folder, [json.loads(line) for line in (coco / out / "captions.jsonl").read_text().splitlines()]


def test_captions_and_reference(coco: Path):
    folder, lines = run(coco)
    assert len(folder) == 12 and folder.size == (SIZE, SIZE) and folder.condition == "real"
    assert len(lines) == 10 and [line["caption_index"] for line in lines] == list(range(10))
    assert len({line["annotation"] for line in lines}) == 10  # drawn without replacement
    assert all(line["caption"] == " ".join(line["caption"].split()) for line in lines)
    assert {line["image_id"] for line in lines} <= set(range(100, 112))
    for line in lines:
        assert line["caption"].startswith(f"A thing {line['image_id'] - 100}, view")
    _, again = run(coco, "again")
    _, other = run(coco, "other", seed=1)
    assert again == lines != other
    written = json.loads((coco / "out" / "protocol.json").read_text())
    assert written["name"] == "dry" and written["reference_n"] == 12 and written["left_out"] == 0
    assert written["captions_digest"] == captions_digest(lines) != captions_digest(other)


def test_images_smaller_than_the_size_are_enlarged(tmp_path: Path):
    """As the usual protocol does: all images count."""
    Image.fromarray(np.tile(np.arange(0, 250, 25, dtype=np.uint8), (5, 1))).save(tmp_path / "small.png")  # 10 x 5
    found = np.asarray(load_image(tmp_path / "small.png", 20))
    assert found.shape == (20, 20, 3)
    np.testing.assert_allclose(found[10, [2, 17], 0], [69, 162], atol=8)  # columns 12 and 27 of 40: 2.6 and 6.4 of 10


def test_an_export_that_was_killed_is_made_again(coco: Path, monkeypatch: pytest.MonkeyPatch):
    """The reference is there last, so what a kill leaves behind is in nobody's way."""

    def killed(*args, **kwargs):
        assert (coco / "out" / "captions.jsonl").is_file() and (coco / "out" / "protocol.json").is_file()
        os._exit(9)

    monkeypatch.setattr("eval.samples.coco.write_samples", killed)
    pid = os.fork()
    if pid == 0:
        try:
            run(coco)
        finally:
            os._exit(1)
    monkeypatch.undo()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    folder, lines = run(coco)
    assert len(folder) == 12 and lines == run(coco, "again")[1]


def test_an_older_export_is_replaced_when_told(coco: Path):
    run(coco)
    with pytest.raises(InputError, match="reference is not empty; choose another folder or pass --overwrite"):
        run(coco, seed=1)
    next((coco / "val2014").glob("*2.jpg")).write_bytes(b"x")
    before = [(coco / "out" / name).read_text() for name in ("captions.jsonl", "protocol.json")]
    protocol = CaptionProtocol("dry", 10, size=SIZE, seed=1)
    words = coco / "captions_val2014.json", coco / "val2014", coco / "out", protocol
    with pytest.raises(InputError, match="cannot be decoded"):
        export(*words, overwrite=True)
    assert before == [(coco / "out" / name).read_text() for name in ("captions.jsonl", "protocol.json")]
    assert len(SampleFolder.open(coco / "out" / "reference")) == 12
    Image.new("RGB", (30, 20)).save(next((coco / "val2014").glob("*2.jpg")))
    export(*words, overwrite=True)
    assert json.loads((coco / "out" / "protocol.json").read_text())["seed"] == 1
    assert (coco / "out" / "captions.jsonl").read_text() != before[0]


def test_short_side_then_centre(tmp_path: Path):
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, 40:60] = 200  # the middle fifth; 40 px high becomes 20: the crop shows columns 40 to 60 of 100 -> 30..70
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = np.asarray(load_image(tmp_path / "wide.png", 20))
    expected = np.asarray(Image.fromarray(pixels).resize((50, 20), Image.Resampling.BICUBIC))[:, 15:35]
    np.testing.assert_array_equal(found, expected)
    assert found[10, 10, 0] > 190 and found[10, 0, 0] < 10
    tall = np.asarray(load_image(tmp_path / "wide.png", 20).rotate(90))
    Image.fromarray(pixels).rotate(90, expand=True).save(tmp_path / "tall.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "tall.png", 20)), tall)


def test_filtered_and_drawn(coco: Path):
    (coco / "out.txt").write_text("103\nCOCO_val2014_000000000004.jpg\n")
    folder, lines = run(coco, exclude=str(coco / "out.txt"), captions=20)
    protocol = CaptionProtocol("dry", 20, size=SIZE, exclude="elsewhere.txt")
    written = json.loads((coco / "out" / "protocol.json").read_text())
    assert written["digest"] == protocol.digest([103, 104]) != protocol.digest([103])
    assert len(folder) == 10 and not {103, 104} & {line["image_id"] for line in lines}
    folder, lines = run(coco, "drawn", captions=3, reference="drawn")
    assert {r["caption_index"] for r in folder.records} == {line["image_id"] for line in lines}


def test_the_whole_protocol(coco: Path, capsys: pytest.CaptureFixture):
    """The command line from a COCO folder to a table; the pictures are noise instead of a model's."""
    import timm
    from safetensors.torch import save_file

    from experiments.cli import main

    config = coco / "dry.yaml"
    config.write_text(f"{{name: dry, captions: 10, size: {SIZE}}}")
    words = ["--annotations", str(coco / "captions_val2014.json"), "--images", str(coco / "val2014")]
    assert main(["coco", *words, "--out", str(coco / "out"), "--protocol", str(config)]) == 0
    told = f"10 captions (protocol dry {json.loads((coco / 'out' / 'protocol.json').read_text())['digest']})"
    assert told in capsys.readouterr().out
    lines = [json.loads(line) for line in (coco / "out" / "captions.jsonl").read_text().splitlines()]
    noise = torch.randint(0, 256, (10, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    records = [{**line, "sample_index": 0, "condition": "diffusion_prior"} for line in lines]
    write_samples(coco / "out" / "samples" / "diffusion_prior", noise, records)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), coco / "weights.safetensors")
    network = f"test_vit={coco / 'weights.safetensors'}"
    words = ["--reference", str(coco / "out" / "reference"), "--network", network, "--bootstrap", "20"]
    assert main(["evaluate", str(coco / "out" / "samples" / "diffusion_prior"), *words]) == 0
    row = json.loads((coco / "out" / "samples" / "diffusion_prior" / "metrics.json").read_text())
    assert row["n"] == 10 and row["protocol"]["reference_n"] == 12 and row["protocol"]["size"] == [SIZE, SIZE]
    assert row["frechet"]["value"] > 0 and row["accuracy"] is None and row["warnings"]
    assert "biased upwards" in capsys.readouterr().out
    assert row["protocol"]["caption_protocol"] == "dry " + CaptionProtocol.load(config).digest()
    assert (coco / "out" / "features").is_dir()  # memory maps

    # Samples of the captions that another seed draws are told apart, whatever the reference.
    config.write_text(f"{{name: dry, captions: 10, size: {SIZE}, seed: 1}}")
    export = ["--annotations", str(coco / "captions_val2014.json"), "--images", str(coco / "val2014")]
    assert main(["coco", *export, "--out", str(coco / "out"), "--protocol", str(config)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["coco", *export, "--out", str(coco / "out"), "--protocol", str(config), "--overwrite"]) == 0
    target = coco / "out" / "samples" / "diffusion_prior" / "metrics.json"
    before, _ = target.read_bytes(), capsys.readouterr()
    assert main(["evaluate", str(target.parent), *words]) == 2 and target.read_bytes() == before
    assert "are not one of each caption that the protocol dry " in (refused := capsys.readouterr().err)
    assert "captions.jsonl" in refused and "--other-captions" in refused and refused.count("\n") == 1
    assert main(["evaluate", str(target.parent), *words, "--other-captions"]) == 0
    other = json.loads((coco / "out" / "samples" / "diffusion_prior" / "metrics.json").read_text())
    assert other["protocol"]["caption_protocol"] is None
    assert any("not one of each caption that the protocol dry " in text for text in other["warnings"])
    (coco / "out" / "protocol.json").write_text("[]")
    assert main(["evaluate", str(coco / "out" / "samples" / "diffusion_prior"), *words]) == 2
    assert "cannot read the protocol of the reference" in capsys.readouterr().err


BAD = {
    "cannot read the annotations": lambda coco: (coco / "captions_val2014.json").unlink(),
    "is not a COCO captions file": lambda coco: (coco / "captions_val2014.json").write_text('{"images": []}'),
    "val2014 lacks COCO_val2014_000000000002.jpg": lambda coco: next((coco / "val2014").glob("*2.jpg")).unlink(),
    "000000000002.jpg cannot be decoded": lambda coco: next((coco / "val2014").glob("*2.jpg")).write_bytes(b"x"),
    "holds 24 captions to draw from, the protocol asks for 25": {"captions": 25},
    "names 7, which is no image": {"exclude": "7"},
    "cannot read the images to leave out": {"exclude": None},
    "is of image 1, which it does not list": lambda coco: add_caption(coco),
}


def add_caption(coco: Path) -> None:
    content = json.loads((coco / "captions_val2014.json").read_text())
    content["annotations"].append({"id": 999, "image_id": 1, "caption": "x"})
    (coco / "captions_val2014.json").write_text(json.dumps(content))


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(coco: Path, words: str):
    change, settings = BAD[words], {}
    if callable(change):
        change(coco)
    else:
        settings = dict(change)
        if "exclude" in settings:
            listed = coco / "exclude.txt"
            if settings["exclude"]:
                listed.write_text(settings["exclude"])
            settings["exclude"] = str(listed)
    with pytest.raises(InputError, match=words) as caught:
        run(coco, **settings)
    assert "\n" not in str(caught.value)
    for name in ("captions.jsonl", "protocol.json", "reference"):
        assert not (coco / "out" / name).exists()
