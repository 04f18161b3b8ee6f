"""Table 1 from votes: the page that collects them is blind and fair, and the shares are those of the votes."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.errors import InputError
from eval.pages.collected import paper_tables
from eval.pages.html import data_uri, png
from eval.samples.folder import SampleFolder
from eval.votes.ballot import BALLOT, FOLDER, Ballot, Item, comparisons, draw_ballot, page
from eval.votes.votes import count, counted, read_votes, win_interval
from experiments.cli import main

NAMES = ("ar_prior", "diffusion_prior", "glide")


def make_folders(make_folder, captions: int, per_caption: int, root: str) -> dict[str, SampleFolder]:
    return {
        name: make_folder(f"run/{root}/{name}", captions, per_caption, condition=name, seed=k, size=8)
        for k, name in enumerate(NAMES)
    }


@pytest.fixture
def folders(make_folder) -> dict[str, SampleFolder]:
    return make_folders(make_folder, 12, 2, "samples")


@pytest.fixture
def grids(make_folder) -> dict[str, SampleFolder]:
    return make_folders(make_folder, 5, 17, "votes/grids")


def drawn(folders, grids, **settings) -> Ballot:
    return draw_ballot(folders, grids, **{"against": "glide", "pairs": 10, "grid_pairs": 4, "seed": 0, **settings})


def content_of(text: str) -> dict:
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def picture(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_what_is_drawn(folders, grids):
    ballot = drawn(folders, grids)
    counts = {"photorealism": 10, "caption": 10, "diversity": 4}
    assert comparisons(ballot) == {"ar_prior": counts, "diffusion_prior": counts}
    for item in ballot.items:
        assert len(item.ours) == len(item.theirs) == (16 if item.question == "diversity" else 1)
        assert len(set(item.ours)) == len(item.ours)
        for files, condition in ((item.ours, item.condition), (item.theirs, "glide")):
            source = (grids if item.question == "diversity" else folders)[condition]
            named = {str(source.path / record["file"]): record["caption"] for record in source.records}
            assert {named[file] for file in files} == {item.caption}
    asked = [(item.question, item.condition, item.caption) for item in ballot.items]
    assert len(set(asked)) == len(asked) and asked != sorted(asked)
    assert 10 < sum(item.left for item in ballot.items) < 38  # of 48
    assert drawn(folders, grids) == ballot != drawn(folders, grids, seed=1)
    assert comparisons(drawn(folders, {}))["ar_prior"]["diversity"] == 0


def test_the_page_is_blind_and_shows_what_the_ballot_says(folders, grids):
    ballot = drawn(folders, grids)
    text = page(ballot)
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not any(name in without_pictures for name in (*NAMES, "ours", "theirs", ".png"))
    assert not re.search(r"(src|href)=.?(http|//)", without_pictures)  # nothing is fetched
    content = content_of(text)
    assert content["ballot"] == ballot.digest and len(content["items"]) == len(ballot.items)
    for shown, item in zip(content["items"], ballot.items, strict=True):
        assert shown["caption"] == (None if item.question == "photorealism" else item.caption)
        ours = picture(shown["left" if item.left else "right"])
        if item.question == "diversity":
            assert ours.shape == (4 * 10 - 2, 4 * 10 - 2, 3)
            assert shown["left" if item.left else "right"] == data_uri(png(Image.fromarray(ours)), "png")
            expected = np.asarray(Image.open(item.ours[6]).convert("RGB"))
            np.testing.assert_array_equal(ours[10:18, 20:28], expected)  # second row, third column
        else:
            np.testing.assert_array_equal(ours, np.asarray(Image.open(item.ours[0]).convert("RGB")))


def test_too_few_captions(folders, grids):
    with pytest.raises(InputError, match="share 12 captions with 1 sample or more, 13 comparisons for photorealism"):
        drawn(folders, grids, pairs=13)
    with pytest.raises(InputError, match="share 0 captions with 16 samples or more, 4 comparisons for diversity"):
        drawn(folders, folders)


ITEMS = [
    Item("photorealism", "a", "ar_prior", True, ["x"], ["y"]),
    Item("photorealism", "b", "ar_prior", False, ["x"], ["y"]),
    Item("caption", "a", "ar_prior", False, ["x"], ["y"]),
    Item("caption", "a", "diffusion_prior", True, ["x"], ["y"]),
]
SMALL = Ballot("glide", 0, ITEMS)


def vote(item: int, choice: str, voter: str = "v", **more) -> dict:
    return {"ballot": SMALL.digest, "item": item, "choice": choice, "voter": voter, **more}


def test_a_win_is_a_win_on_either_side():
    votes = [vote(0, "left"), vote(1, "right"), vote(1, "left", "w"), vote(0, "unsure", "w"), vote(2, "left")]
    found = count(SMALL, votes)
    # item 0: our picture is left: a win, and half a one; item 1: ours is right: a win, and a loss
    assert found["ar_prior"]["photorealism"] | {"low": 0, "high": 0} == {
        "value": 2.5 / 4, "low": 0, "high": 0, "n": 4, "unsure": 1,
    }  # fmt: skip
    assert found["ar_prior"]["caption"]["value"] == 0.0  # ours is right, they chose left
    assert "diffusion_prior" not in found


def test_a_voter_may_change_their_mind_and_files_may_overlap():
    votes = [vote(0, "right"), vote(0, "left"), vote(0, "left")]
    assert count(SMALL, votes)["ar_prior"]["photorealism"] | {"low": 0, "high": 0} == {
        "value": 1.0, "low": 0, "high": 0, "n": 1, "unsure": 0,
    }  # fmt: skip


def test_intervals():
    from scipy.stats import binomtest

    for hits, n in ((3, 10), (0, 7), (7, 7), (489, 1000)):
        expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert win_interval(hits, n) == pytest.approx((hits / n, expected.low, expected.high), abs=1e-7)
    paper = win_interval(489, 1000)  # 48.9 +- 3.1 %
    assert 100 * (paper.high - paper.low) / 2 == pytest.approx(3.1, abs=0.05)


def test_files_of_both_kinds(tmp_path: Path):
    votes = [vote(0, "left", question="photorealism"), vote(3, "unsure")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(v) + "\n" for v in votes))
    with (tmp_path / "b.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["ballot", "item", "choice", "voter"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(votes)
    expected = [{"item": 0, "choice": "left", "voter": "v"}, {"item": 3, "choice": "unsure", "voter": "v"}]
    assert read_votes(tmp_path / "a.jsonl", SMALL) == read_votes(tmp_path / "b.csv", SMALL) == expected


BAD = {
    "votes.jsonl:2 is no vote: it needs": "{",
    "votes.jsonl:2 is no vote: it needs ballot, item, choice, voter": json.dumps(vote(0, "left", "")),
    "is a vote on another ballot": json.dumps({**vote(0, "left"), "ballot": "123"}),
    "is on item 4; the ballot has 0 to 3": json.dumps(vote(4, "left")),
    "is on item -1": json.dumps(vote(-1, "left")),
    "says 'middle'": json.dumps(vote(0, "middle")),
}


@pytest.mark.parametrize("words", BAD)
def test_a_bad_vote_is_named_by_its_line(tmp_path: Path, words: str):
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(vote(0, "left")) + "\n" + BAD[words] + "\n")
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        read_votes(path, SMALL)
    assert "\n" not in str(caught.value)


def test_from_the_page_to_table_1(folders, grids, tmp_path: Path, capsys):
    run = tmp_path / "run"
    words = ["votes", str(run), "--pairs", "10", "--grids", "4"]
    assert counted(run) is None
    assert main(words) == 0
    assert "ar_prior against glide: 10 for photorealism, 10 for caption, 4 for diversity" in capsys.readouterr().out
    ballot = Ballot.load(run / FOLDER / BALLOT)
    content = content_of((run / FOLDER / "ballot.html").read_text())
    assert content["ballot"] == ballot.digest

    def lines(voter: str, choose) -> str:
        chosen = (choose(item) for item in ballot.items)
        cast = [
            {"ballot": content["ballot"], "item": k, "choice": c, "voter": voter}
            for k, c in enumerate(chosen)
        ]  # fmt: skip
        return "".join(json.dumps(each) + "\n" for each in cast)

    assert main(words) == 2 and "pass --overwrite to draw another ballot" in capsys.readouterr().err
    # One always prefers the model of the AR prior, and GLIDE to the other; one is never sure.
    sides = {True: "left", False: "right"}
    (run / FOLDER / "votes-1.jsonl").write_text(lines("1", lambda i: sides[i.left == (i.condition == "ar_prior")]))
    (run / FOLDER / "votes-2.jsonl").write_text(lines("2", lambda i: "unsure"))
    found = counted(run)
    for condition, share in (("ar_prior", 0.75), ("diffusion_prior", 0.25)):
        for question, n in (("photorealism", 20), ("caption", 20), ("diversity", 8)):
            answer = found[condition][question]
            assert (answer["value"], answer["n"], answer["unsure"]) == (share, n, n // 2)
    table = paper_tables(run, [])["table_1_humans"]
    assert [row[0].text for row in table.rows[-2:]] == ["AR prior", "diffusion prior"]
    assert table.rows[-2][1].text == "75.0 %" and "photorealism 20 (10)" in table.notes[-1]
    assert main(["tables", str(run)]) == 0
    assert "75.0 %" in (run / "tables" / "table_1_humans.md").read_text()
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 2
    assert "holds votes on an earlier ballot (votes-1.jsonl)" in capsys.readouterr().err


def test_a_ballot_that_was_changed(tmp_path: Path):
    SMALL.save(tmp_path / BALLOT)
    assert Ballot.load(tmp_path / BALLOT) == SMALL
    other = replace(SMALL, items=[replace(item, left=not item.left) for item in ITEMS])
    content = json.loads((tmp_path / BALLOT).read_text())
    other.save(tmp_path / BALLOT)
    (tmp_path / BALLOT).write_text((tmp_path / BALLOT).read_text().replace(other.digest, content["digest"]))
    with pytest.raises(InputError, match="it was changed by hand"):
        Ballot.load(tmp_path / BALLOT)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pairs", "0"], "--pairs must be 1 or more"),
        (["--conditions", "glide"], "glide cannot be compared with itself"),
        (["--conditions", "linear_prior"], "linear_prior does not exist"),
        (["--pairs", "99"], "share 12 captions"),
    ],
)
def test_bad_input(folders, tmp_path: Path, capsys, more, message):
    assert main(["votes", str(tmp_path / "run"), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "run" / FOLDER).exists()


STUB = """
const elements = {}, listeners = {};
const stored = {};
globalThis.localStorage = { getItem: (k) => stored[k] || null, setItem: (k, v) => { stored[k] = v; } };
globalThis.document = {
  getElementById: (id) => elements[id] ??= { id, addEventListener: (e, f) => { elements[id][e] = f; } },
  addEventListener: (e, f) => { listeners[e] = f; },
};
document.getElementById("content").textContent = require("fs").readFileSync(0, "utf8");
"""
SCRIPT = """
elements.left.click(); elements.right.click(); listeners.keydown({ key: "3" });
elements.back.click(); elements.left.click();
process.stdout.write(JSON.stringify({ lines: lines(), caption: elements.caption.textContent, done: elements.done.hidden,
  question: elements.question.textContent, stored: Object.keys(JSON.parse(stored["votes-" + ballot]).votes).length }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="the page's script needs node to be run without a browser")
def test_the_pages_script(folders):
    ballot = drawn(folders, {})
    text = page(ballot)
    content = content_of(text)
    script = text.split("<script>")[1].split("</script>")[0]
    done = subprocess.run(
        ["node", "-e", STUB + script + SCRIPT], input=json.dumps(content), capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    votes = [json.loads(line) for line in said["lines"].splitlines()]
    assert [(v["item"], v["choice"], v["ballot"]) for v in votes] == [
        (0, "left", ballot.digest), (1, "right", ballot.digest), (2, "left", ballot.digest),
    ]  # fmt: skip
    assert said["question"] == content["asked"][content["items"][3]["question"]] and said["done"] is True
    assert said["caption"] == (content["items"][3]["caption"] or "") and said["stored"] == 3
