"""The page of claims: verdicts follow from intervals, and docs/results.md is what its files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.pages.claims import (
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Numbers,
    claims_table,
    filled,
    main,
    named,
    read_claims,
    shown,
    verdict_of,
)
from eval.pages.stored import numbers_in, numbers_of_figure

PAGE = Path(__file__).parents[3] / "docs" / "results.md"
SAID = {"paper": "5.1", "claim": "A prior helps.", "here": "Frechet", "command": "unclip x"}


def number(low: float, high: float, values: list[float] | None = None) -> dict:
    return {"value": (low + high) / 2, "low": low, "high": high, **({"values": values} if values else {})}


def test_the_page_says_what_its_files_say():
    folder = PAGE.with_suffix("")
    claims = read_claims(folder / "claims.yaml")
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, claims_table(claims, Numbers(folder))) == page
    stored = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for name, content in stored.items():  # no number lies there that no claim names
        assert named(content, claims, name) == content


@pytest.mark.parametrize(
    ("expect", "margin", "first", "second", "verdict"),
    [
        ("above", 0, (5, 6), (3, 4), HOLDS),
        ("above", 0, (5, 6), (3, 5.5), OPEN),
        ("above", 0, (3, 4), (5, 6), FAILS),
        ("below", 0, (3, 4), (5, 6), HOLDS),
        ("below", 0, (5, 6), (3, 4), FAILS),
        ("above", -1, (4.5, 5), (5, 5.2), HOLDS),  # at least nearly: the difference is above -1
        ("above", -0.5, (4.5, 5), (5, 5.2), OPEN),
        ("near", 1, (4.8, 5), (5, 5.2), HOLDS),
        ("near", 0.3, (4.8, 5), (5, 5.2), OPEN),
        ("near", 1, (1, 2), (5, 6), FAILS),
        ("inside", 0, (1, 10), (5, 6), HOLDS),  # 5.5: the first number's own interval does not matter
        ("inside", 0, (4, 5.8), (5, 6), FAILS),
        ("inside", 0, (6, 6.2), (5, 6), FAILS),
    ],
)
def test_verdicts_of_one_run(expect, margin, first, second, verdict):
    assert verdict_of(expect, margin, number(*first), number(*second)) == verdict


def test_over_seeds_the_difference_within_replicas_decides():
    first, second = number(0, 10, [1.0, 5.0, 9.0]), number(0, 10, [0.0, 4.1, 7.9])
    assert verdict_of("above", 0, first, second) == HOLDS  # 1, 0.9, 1.1: sure, though the intervals overlap
    assert verdict_of("below", 0, first, second) == FAILS
    assert verdict_of("near", 1.5, first, second) == HOLDS
    assert verdict_of("above", 0, first, number(0, 10, [2.0, 4.0, 8.0])) == OPEN
    assert verdict_of("above", 0, first, number(0, 10, [0.0, 1.0])) == OPEN  # other replicas: no pairs


def test_how_numbers_are_shown():
    assert shown(number(0.8, 0.9)) == "0.850 [0.800, 0.900]" and shown(number(10, 30)) == "20 [10, 30]"
    assert shown(number(19.74, 28.46)) == "24.1 [19.7, 28.5]" and shown({"value": 0.012345}) == "0.0123"
    assert shown({"value": 0, "low": 0, "high": 0}) == "0.00 [0.00, 0.00]"


def test_a_page_is_made_from_stored_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from eval.pages import claims as module

    row = {"frechet": number(5, 6), "other": number(1, 2), "more: 1": number(0.6, 0.9), "rest": number(7, 9)}
    whole = {"main": {"a": row, "b": {"frechet": number(3, 4)}}, "sweeps": {"s": {"seconds": {"value": 0.0031234}}}}
    monkeypatch.setattr(module, "stored", lambda run: whole)
    (tmp_path / "page").mkdir()
    here = "Frechet, {x:sweeps/s/seconds} s, {x:main/a/more: 1} of them"
    claim = {**SAID, "here": here, "numbers": ["x:main/a/frechet", "x:main/b/frechet"], "expect": "above"}
    (tmp_path / "page" / "claims.yaml").write_text(f"claims:\n  - {json.dumps(claim)}\n")
    (tmp_path / "page.md").write_text(f"# Page\n\n{module.BEGIN}\n{module.END}\n\nend\n")
    monkeypatch.setattr("sys.argv", ["claims", "--store", str(tmp_path), str(tmp_path / "page" / "x.json")])
    assert main() == 0
    assert json.loads((tmp_path / "page" / "x.json").read_text()) == {
        "main": {"a": {"frechet": number(5, 6), "more: 1": number(0.6, 0.9)}, "b": {"frechet": number(3, 4)}},
        "sweeps": {"s": {"seconds": {"value": 0.0031234}}},
    }
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path / "page.md")])
    assert main() == 0
    here = "Frechet, 0.00312 s, 0.75 of them"
    line = f"| 5.1 | A prior helps. | {here} | agrees | 5.5 [5.0, 6.0], 3.5 [3.0, 4.0] | `unclip x` |"
    page = (tmp_path / "page.md").read_text()
    assert line in page and page.endswith(f"{module.END}\n\nend\n")


def test_what_is_wrong_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="give one of expect"):
        Claim(**SAID)
    with pytest.raises(InputError, match="compares two numbers, found 1"):
        Claim(**SAID, numbers=["x:a"], expect="above")
    (tmp_path / "claims.yaml").write_text("claims:\n  - {paper: a, claim: b, here: c, comand: d}\n")
    with pytest.raises(InputError, match="'b': the key 'comand' is unknown or missing"):
        read_claims(tmp_path / "claims.yaml")
    (tmp_path / "x.json").write_text('{"main": {"a": {"value": 1}}}')
    numbers = Numbers(tmp_path)
    for name, message in (("y:main", "no file"), ("x:main/b", "has no 'b' there"), ("x:main", "is no number")):
        with pytest.raises(InputError, match=message):
            numbers(name)
    with pytest.raises(InputError, match="no place for the table"):
        filled("# Page\n", claims_table([], numbers))


def test_numbers_of_a_row_without_the_rest():
    row = {
        "condition": "a",
        "n": 3,
        "frechet": {"value": 1.23456789, "low": 0, "high": 2, "n": 9},
        "protocol": {"n": 3},
    }
    row |= {"accuracy": {"all": {"value": 1, "low": 0.5, "high": 1}, "size": None}, "drawn": {"decoder": {"steps": 4}}}
    assert numbers_in(row) == {
        "frechet": {"value": 1.23457, "low": 0, "high": 2},
        "accuracy": {"all": {"value": 1, "low": 0.5, "high": 1}},
    }


def test_numbers_of_a_figure_are_named_by_their_places():
    mean = {"value": 0.5, "low": 0.25, "high": 0.75}
    figure = {"eta 1": {"distance": mean}, "hit": [0, 0.5], "monotonic": True, "text": "a", "none": []}
    kept = {"shape": [{"value": 1, "low": 1, "high": 1}, None, mean], "size": [0.3, 0.2, 0.1]}
    figure |= {"psnr": [7, 8, 9], "kept": kept, "cosine": [0, 0.1, 0.2, 0.3]}
    assert numbers_of_figure(figure) == {
        "eta 1": {"distance": {"value": 0.5, "low": 0.25, "high": 0.75}},
        "hit": {"0": {"value": 0.0}, "1": {"value": 0.5}},
        "psnr": {"0": {"value": 7}, "1": {"value": 8}, "2": {"value": 9}},
        "kept": {
            "shape": {"0": {"value": 1, "low": 1, "high": 1}, "2": {"value": 0.5, "low": 0.25, "high": 0.75}},
            "size": {"0": {"value": 0.3}, "1": {"value": 0.2}, "2": {"value": 0.1}},
        },
        "cosine": {str(k): {"value": k / 10} for k in range(4)},
    }
