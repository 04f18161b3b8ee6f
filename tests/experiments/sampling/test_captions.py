"""Captions of files as Windows writes them."""

import json

import pytest

from eval.samples.manifest import read_manifest
from experiments.sampling.captions import read_requests
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
    with pytest.raises(InputError, match=r"record 1: .* is not UTF-8"):
        read_requests(None, str(path))
