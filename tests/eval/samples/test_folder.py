"""Sample folders: what was written comes back, and every kind of damage is named in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.errors import InputError
from eval.samples import folder as samples
from eval.samples.folder import SampleFolder, require_writable, write_samples


def make(n_captions: int = 3, per_caption: int = 2, size: int = 8) -> tuple[torch.Tensor, list[dict]]:
    n = n_captions * per_caption
    images = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    records = [
        {"caption": f"caption {i // per_caption} é", "caption_index": i // per_caption, "sample_index": i % per_caption,
         "seed": i, "condition": "real"}
        for i in range(n)
    ]  # fmt: skip
    return images, records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_samples(tmp_path / "samples", *make())
    return tmp_path / "samples"


def rewrite(folder: Path, change) -> None:
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = change(lines) or lines
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(tmp_path: Path):
    images, records = make()
    before = [dict(record) for record in records]
    write_samples(tmp_path / "new" / "samples", images, records)
    read = SampleFolder.open(tmp_path / "new" / "samples")
    assert len(read) == 6 and read.size == (8, 8) and read.condition == "real"
    assert torch.equal(read.images(), images)
    assert torch.equal(read.images(2, 5), images[2:5])
    assert read.captions == [record["caption"] for record in records]
    assert read.caption_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert [record["file"] for record in read.records] == [f"{i:05d}.png" for i in range(6)]
    assert [record["seed"] for record in read.records] == list(range(6))
    assert records == before
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["samples"]  # no temporary folder stays


def test_pictures_and_tensors_give_the_same_bytes(tmp_path: Path):
    images, records = make()
    pictures = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
    write_samples(tmp_path / "a", images, records)
    write_samples(tmp_path / "b", pictures, records)
    for file in ["manifest.jsonl", "grid.png", "00003.png"]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_non_empty_folder_is_left_alone(folder: Path):
    images, records = make()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert "not empty" in refusal(write_samples, folder, 255 - images, records)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    write_samples(folder, 255 - images[:2], records[:2], overwrite=True)
    assert torch.equal(SampleFolder.open(folder).images(), 255 - images[:2])
    assert not (folder / "00003.png").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["samples"]


def test_overwrite_never_removes_what_is_not_a_sample(folder: Path):
    (folder / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in refusal(write_samples, folder, *make(), overwrite=True)
    assert (folder / "thesis.tex").exists()


def test_empty_folder_and_file_in_the_way(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write_samples(tmp_path / "empty", *make())
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(require_writable, tmp_path / "file")
    assert "permission" in refusal(require_writable, tmp_path / "file" / "below")


def test_failure_while_writing_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    original, calls = Path.write_bytes, []

    def full_disk(self: Path, data: bytes) -> int:
        calls.append(self)
        if len(calls) == 3:
            raise OSError(28, os.strerror(28), str(self))
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    message = refusal(write_samples, folder, *make(), overwrite=True)
    assert "No space left" in message and str(folder) in message and "partial" not in message
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["samples"]


def test_numbers_of_images_and_records_must_agree(tmp_path: Path):
    images, records = make()
    with pytest.raises(ValueError, match="6 images do not go with 5 records"):
        write_samples(tmp_path / "x", images, records[:5])
    with pytest.raises(ValueError, match="'condition'"):
        write_samples(tmp_path / "x", images[:1], [{"caption": "a", "caption_index": 0, "sample_index": 0}])
    assert list(tmp_path.iterdir()) == []


def truncate(folder: Path) -> None:
    content = (folder / "00002.png").read_bytes()
    (folder / "00002.png").write_bytes(content[: len(content) // 2])


MANIFEST_DAMAGES = {
    "no caption": (lambda lines: lines[3].pop("caption") and None, "manifest.jsonl:4 needs 'caption'"),
    "a path": (lambda lines: lines[1].update(file="../x.png"), "manifest.jsonl:2 names '../x.png'"),
    "one line less": (lambda lines: lines[:-1], "holds 00005.png"),
    "listed twice": (lambda lines: lines[1].update(file="00000.png"), "as line 1 does"),
    "sample twice": (lambda lines: lines[1].update(sample_index=0), "manifest.jsonl:2 repeats"),
    "truth of no objects": (lambda lines: lines[2].update(mentioned={"objects": 3}), ":3: 'mentioned' cannot be read"),
    "truth without a count": (
        lambda lines: lines[2].update(mentioned={"objects": [], "background": None, "relation": None}),
        "manifest.jsonl:3: 'mentioned' cannot be read, it lacks count",
    ),
    "truth of a strange relation": (
        lambda lines: lines[0].update(
            mentioned={"objects": [], "background": None, "relation": "inside", "count": None}
        ),
        "a relation is one of above, below, left of, right of, of two objects; found 'inside'",
    ),
    "truth of a strange object": (
        lambda lines: lines[0].update(mentioned={"objects": [3], "background": 1, "relation": None, "count": 1}),
        "an object has colour, shape, size, found 3",
    ),
    "two captions": (lambda lines: lines[1].update(caption="b"), "another caption"),
}

FOLDER_DAMAGES = {
    "missing image": (lambda f: (f / "00004.png").unlink(), "lacks 00004.png"),
    "two missing images": (lambda f: [(f / n).unlink() for n in ("00004.png", "00001.png")], "00001.png and 1 more"),
    "truncated image": (truncate, "00002.png is truncated"),
    "empty image": (lambda f: (f / "00002.png").write_bytes(b""), "00002.png is not a PNG"),
    "extra image": (lambda f: shutil.copy(f / "00002.png", f / "00006.png"), "holds 00006.png"),
    "extra folder": (lambda f: (f / "old").mkdir(), "holds old"),
    "other size": (lambda f: Image.new("RGB", (4, 8)).save(f / "00005.png"), "00005.png is 4x8 pixels where 00000.png"),
    "no manifest": (lambda f: (f / "manifest.jsonl").unlink(), "cannot read"),
    "empty manifest": (lambda f: (f / "manifest.jsonl").write_text(""), "is empty"),
    "not JSON": (lambda f: (f / "manifest.jsonl").write_text('{"file": \n'), "manifest.jsonl:1 is not JSON"),
    "not an object": (lambda f: (f / "manifest.jsonl").write_text("[1]\n"), "manifest.jsonl:1 needs 'file'"),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGES)
def test_damage_is_named(folder: Path, damage: str):
    act, words = FOLDER_DAMAGES[damage]
    act(folder)
    message = refusal(SampleFolder.open, folder)
    assert words in message and str(folder) in message


@pytest.mark.parametrize("damage", MANIFEST_DAMAGES)
def test_a_manifest_that_disagrees_is_named(folder: Path, damage: str):
    act, words = MANIFEST_DAMAGES[damage]
    rewrite(folder, act)
    message = refusal(SampleFolder.open, folder)
    assert words in message and str(folder) in message


def test_no_such_folder(tmp_path: Path):
    assert "nowhere does not exist" in refusal(SampleFolder.open, tmp_path / "nowhere")


def test_pixels_are_checked_when_read(folder: Path):
    shutil.copy(folder / "00002.png", folder / "00003.png")  # the same image twice, under two names
    read = SampleFolder.open(folder)
    assert read.images(0, 3).shape == (3, 3, 8, 8)
    assert "00003.png is not the image that the manifest describes" in refusal(read.images)
    content = bytearray((folder / "00001.png").read_bytes())
    content[45] ^= 0xFF
    (folder / "00001.png").write_bytes(bytes(content))
    assert "00001.png" in refusal(read.images, 1, 2)


def test_sidecars_are_welcome(folder: Path):
    (folder / "metrics.json").write_text("{}")
    (folder / "LICENSE.txt").write_text("CC BY-SA 4.0")
    (folder / ".DS_Store").write_text("")
    assert len(SampleFolder.open(folder)) == 6


def test_a_caption_may_hold_what_looks_like_a_line_end(tmp_path: Path):
    captions = ["one\u2028two", "next\x85line", "feed\x0c\x1c", "a\nb\r\nc"]
    records = [
        {"caption": c, "caption_index": k, "sample_index": 0, "condition": "real"} for k, c in enumerate(captions)
    ]
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 8, 8).contiguous()
    assert write_samples(tmp_path / "a", images, records).captions == captions
    from experiments.sampling.captions import read_requests

    requests, _ = read_requests(None, str(tmp_path / "a" / "manifest.jsonl"))
    assert [request.caption for request in requests] == captions
    (tmp_path / "list.txt").write_text("a red\u2028circle\r\n\n two \n", encoding="utf-8")
    requests, _ = read_requests(None, str(tmp_path / "list.txt"))
    assert [request.caption for request in requests] == ["a red\u2028circle", "two"]
    (tmp_path / "a" / "manifest.jsonl").write_text("")
    with pytest.raises(InputError, match="is empty"):
        SampleFolder.open(tmp_path / "a")


def test_mixed_conditions(folder: Path):
    rewrite(folder, lambda lines: lines[1].update(condition="glide"))
    read = SampleFolder.open(folder)
    with pytest.raises(InputError, match="mixes the conditions glide, real"):
        _ = read.condition


def test_constants_match_what_pillow_writes(folder: Path):
    content = (folder / "00000.png").read_bytes()
    assert content.startswith(samples.PNG_HEAD) and content.endswith(samples.PNG_TAIL)


def test_drawn_pictures_are_small_files(tmp_path: Path):
    """The settings of `PNG` save bytes: a shape on a ground with the faint noise of a drawn picture."""
    rng = np.random.default_rng(0)
    pixels = np.full((128, 128, 3), 200.0)
    pixels[40:90, 30:80] = (220.0, 30.0, 40.0)
    drawn = (pixels + rng.normal(0, 2, pixels.shape)).round().clip(0, 255).astype(np.uint8)
    images = torch.from_numpy(drawn).movedim(-1, 0)[None]
    folder = write_samples(tmp_path / "a", images, make(1, 1)[1])
    Image.fromarray(drawn).save(tmp_path / "pillow.png")
    written = (tmp_path / "a" / "00000.png").stat().st_size
    assert written < 0.99 * (tmp_path / "pillow.png").stat().st_size
    assert torch.equal(folder.images(), images)
