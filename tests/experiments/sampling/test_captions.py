"""Captions of files as Windows writes them."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from eval.samples.manifest import read_manifest
from eval.samples.plain import OF_CAPTION
from experiments.sampling.captions import COPIED, read_requests
from modules.errors import InputError

RED, BLUE = "a small red circle", "a large blue square"


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff{RED}\r\n{BLUE}\r\n",
        f"{RED}\n\ufeff{BLUE}\n",  # Two files put together.
        f"\n{RED}\n\n  {BLUE}",
        f"a small\0red circle\n{BLUE}\0\n",
    ],
)
def test_marks_and_nul_are_no_part_of_a_caption(tmp_path, content):
    path = tmp_path / "captions.txt"
    path.write_bytes(content.encode())
    requests, _ = read_requests(None, str(path))
    assert [request.caption for request in requests] == [RED, BLUE]


def test_a_manifest_may_have_a_mark_and_empty_lines(tmp_path):
    shared = {"sample_index": 0, "condition": "x"}
    lines = [{"file": f"{k}.png", "caption": text, "caption_index": k, **shared} for k, text in enumerate((RED, BLUE))]
    path = tmp_path / "captions.jsonl"
    path.write_bytes(("\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\r\n\r\n").encode())
    assert [request.caption for request in read_requests(None, str(path))[0]] == [RED, BLUE]
    assert read_manifest(path) == lines


@pytest.mark.parametrize("caption", ["caf\udce9", " \udcff"])
def test_a_caption_that_is_not_utf_8_is_refused(tmp_path, caption):
    with pytest.raises(InputError, match="is not UTF-8"):
        read_requests(caption, None)
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps({"caption": caption, "caption_index": 0}))
    with pytest.raises(InputError, match=r"record 1: .* is not UTF-8|jsonl:1 holds text that is not Unicode"):
        read_requests(None, str(path))


def test_prompts_of_benchmarks_are_read(tmp_path: Path):
    """DrawBench's csv, PartiPrompts' tsv and GenEval's jsonl, as they are published."""
    drawbench, parti, geneval = (tmp_path / name for name in ("drawbench.csv", "PartiPrompts.tsv", "geneval.jsonl"))
    drawbench.write_text('Prompts,Category\nA red colored car.,Colors\n"One cat, one dog.",Counting\n')
    parti.write_text("Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tBiology-inspired\n")
    metadata = {"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": "a photo of two clocks"}
    geneval.write_text(json.dumps(metadata) + "\n")
    found, folder = read_requests(None, str(drawbench))
    assert folder is None and [(r.caption, r.index) for r in found] == [
        ("A red colored car.", 0),
        ("One cat, one dog.", 1),
    ]
    assert found[1].known == {"category": "Counting"}
    (request,), _ = read_requests(None, str(parti))
    assert request.caption == "bond" and request.known == {"category": "Abstract", "challenge": "Basic"}
    (request,), _ = read_requests(None, str(geneval))
    assert request.caption == "a photo of two clocks" and request.known == {"geneval": metadata}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("x.csv", "words\nx\n", "no column of prompts"),
        ("x.csv", "prompt,category\n,a\n", "row 1 has no prompt"),
        ("x.jsonl", '{"prompt": "a", "tag": "colour", "include": []}\n', "the tag is one of single_object"),
    ],
)
def test_wrong_tables_of_prompts_are_refused(tmp_path: Path, name: str, text: str, told: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read_requests(None, str(tmp_path / name))


OF_THE_PICTURE = {"scene"}
"""What is true of a picture beyond its caption: another picture of the caption has it not."""


@pytest.mark.parametrize(
    "data",
    [
        "datamodules.shapes.ShapesDataModule",
        "datamodules.limits.signs.SignsDataModule",
        "datamodules.limits.crowds.CrowdsDataModule",
    ],
)
def test_drawn_pictures_keep_all_that_is_known_of_a_caption(tmp_path, data):
    """Tables group pictures by it, so that a key that is left out here leaves rows out there."""
    module, _, name = data.rpartition(".")
    found = getattr(import_module(module), name)(train_size=8, val_size=8, test_size=8, cache_dir=None)
    known = set().union(*(found.real("test", index, 0, 32, 0)[1] for index in range(8)))
    assert known and known - OF_THE_PICTURE <= set(OF_CAPTION) <= set(COPIED)
