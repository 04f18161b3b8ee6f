"""Protocols from YAML, and numbers of two of them are never set side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.protocol import CaptionProtocol, captions_digest, check_protocols, digest, require_keys
from eval.tables.sweeps import Sweep

SHIPPED = sorted((Path(__file__).parents[2] / "experiments" / "protocols").glob("coco*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_ones_are_the_papers(path: Path):
    protocol = CaptionProtocol.load(path)
    assert (protocol.captions, protocol.per_caption, protocol.size, protocol.reference) == (30000, 1, 256, "all")
    assert (protocol.exclude is not None) == ("filtered" in path.stem)


def test_digest_is_of_the_values():
    a, b = CaptionProtocol("x", 5), CaptionProtocol("x", 5, seed=1)
    assert a.digest() == CaptionProtocol("x", 5).digest() != b.digest()
    here, there = (CaptionProtocol("x", 5, exclude=f"{folder}/list.txt") for folder in "ab")
    assert here.digest([2, 1]) == there.digest([1, 2]) != there.digest([1]) and here.digest() != a.digest()
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


NEW = {"captions_digest": "0a1b", "caption_protocol": None, "classifier": None, "reference_size": [8, 8]}


def test_rows_of_an_older_release(row):
    """They recorded less: among themselves they stand in a table as ever, beside newer ones they do not."""
    old, new = row("glide"), row("real")
    assert check_protocols([old, row("real")]) == old["protocol"]
    new["protocol"] |= NEW
    for rows, silent in (([old, new], "glide"), ([new, old], "glide")):
        with pytest.raises(InputError, match="run `unclip evaluate` on both together") as caught:
            check_protocols(rows)
        assert f"the numbers of {silent} are of another release, which does not record it" in str(caught.value)
    with pytest.raises(InputError, match="one table; delete it"):
        check_protocols([old, new], way_out="delete it")
    old["protocol"] |= NEW
    assert check_protocols([old, new])["captions_digest"] == "0a1b"
    new["protocol"]["captions_digest"] = "ffff"
    with pytest.raises(InputError, match="with captions_digest = '0a1b' and real with 'ffff': these"):
        check_protocols([old, new])


@pytest.mark.parametrize("key", ["aesthetic", "preference"])
def test_a_probe_is_its_digest(row, key: str):
    rows = [row("glide"), row("real"), row("ar_prior")]
    for line, name in zip(rows, ("a 34cd, probe 11", "b 34cd, probe 11", "a 34cd, probe 22"), strict=True):
        line["protocol"][key] = name
    check_protocols(rows[:2])
    with pytest.raises(InputError, match=f"with {key} = 'a 34cd, probe 11' and ar_prior with 'a 34cd, probe 22'"):
        check_protocols(rows)


def test_captions_digest_is_of_what_there_are_samples_of():
    records = [{"caption_index": k // 2, "caption": f"c{k // 2}", "sample_index": k % 2} for k in range(6)]
    own = captions_digest(records)
    assert own == captions_digest(reversed(records)) and len(own) == 12
    others = [records[:5], [*records, records[0]], [{**r, "caption": r["caption"] + "!"} for r in records]]
    others += [[{**r, "caption_index": 2 - r["caption_index"]} for r in records], [*records[:4], *records[2:4]]]
    assert len({own, *map(captions_digest, others)}) == 6


def test_what_tables_need(row):
    require_keys("f", row("glide"), ("condition", "n"), ("n", "seed"), "again")
    with pytest.raises(InputError, match=r"f lacks 'fruit', .* made: again"):
        require_keys("f", row("glide"), ("n", "fruit"), (), "again")
    with pytest.raises(InputError, match="f lacks 'fruit' of its protocol,"):
        require_keys("f", row("glide"), ("n",), ("fruit",), "again")
    for broken in (row("glide", protocol=None), {"n": 1}, 3):
        with pytest.raises(InputError, match="f lacks 'protocol',"):
            require_keys("f", broken, (), (), "again")


def test_a_sweep_without_protocol(guidance, tmp_path: Path):
    (tmp_path / "guidance.json").write_text(json.dumps(guidance))
    Sweep.load(tmp_path / "guidance.json")
    del guidance["points"][2]["protocol"]["size"]
    for told in ("'size' of its protocol", "'protocol'"):
        (tmp_path / "guidance.json").write_text(json.dumps(guidance))
        with pytest.raises(InputError, match=f"guidance.json, point 3, lacks {told}, .*run `unclip sweep` again"):
            Sweep.load(tmp_path / "guidance.json")
        guidance["points"][2].pop("protocol", None)
