"""Protocols from YAML, and numbers of two of them are never set side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.errors import InputError
from eval.protocol import CaptionProtocol, check_protocols, digest

SHIPPED = sorted((Path(__file__).parents[2] / "experiments" / "protocols").glob("coco*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_ones_are_the_papers(path: Path):
    protocol = CaptionProtocol.load(path)
    assert (protocol.captions, protocol.per_caption, protocol.size, protocol.reference) == (30000, 1, 256, "all")
    assert (protocol.exclude is not None) == ("filtered" in path.stem)


def test_digest_is_of_the_values():
    a, b = CaptionProtocol("x", 5), CaptionProtocol("x", 5, seed=1)
    assert a.digest == CaptionProtocol("x", 5).digest != b.digest
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x", "needs name and captions"),
        ("[1]", "needs name and captions"),
        ("{name: x, captions: 5, sise: 3}", "unknown key 'sise'"),
        ("{name: x, captions: 0}", "captions must be 1 or more, found 0"),
        ("{name: x, captions: 5, reference: some}", "reference is 'all' or 'drawn', found 'some'"),
        ("{", "cannot read the protocol"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, words: str):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        CaptionProtocol.load(tmp_path / "p.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot read the protocol"):
        CaptionProtocol.load(tmp_path / "nowhere.yaml")


def test_different_protocols_are_refused(row):
    rows = [row("glide"), row("real")]
    assert check_protocols(rows) == rows[0]["protocol"]
    for key, value in (("n", 3), ("extractor", "other"), ("reference_digest", "x"), ("seed", 1), ("new_key", 1)):
        other = row("real")
        other["protocol"][key] = value
        with pytest.raises(InputError, match=f"glide was measured with {key} = .* and real with {value!r}"):
            check_protocols([rows[0], other])
        assert check_protocols([rows[0], other], ignore=[key])
