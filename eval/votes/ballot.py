"""A ballot: pictures of two models side by side, in random order, for people to compare as in the paper's Table 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eval.errors import InputError
from eval.files import write_file
from eval.pages.html import data_uri, environment, png
from eval.samples.folder import SampleFolder
from eval.samples.pictures import read_picture
from eval.tables.published import QUESTIONS
from eval.untrusted import read_json

FOLDER, BALLOT, PAGE = "votes", "ballot.json", "ballot.html"
GRID_SIDE = 4  # two grids of 4 x 4 samples of one caption are compared for diversity
ASKED = {
    "photorealism": "Which picture is more photorealistic?",
    "caption": "Which picture matches the caption better?",
    "diversity": "Which of the two grids is more diverse?",
}


@dataclass(frozen=True)
class Item:
    """One comparison.

    Attributes:
        question: one of `QUESTIONS`.
        caption: what the pictures were drawn for; shown for all questions but photorealism.
        condition: the model that is compared with the baseline.
        left: whether that model's picture is on the left.
        ours, theirs: files of the model and of the baseline, one each, or a grid's.
    """

    question: str
    caption: str
    condition: str
    left: bool
    ours: list[str]
    theirs: list[str]


@dataclass(frozen=True)
class Ballot:
    """The questions of a ballot and its models. The page that people see does not say which model drew which picture.

    Attributes:
        against: the baseline.
        seed: of the drawing of captions, samples, sides and order.
        items: in the order of the page; an item's number is its place.
    """

    against: str
    seed: int
    items: list[Item]

    @property
    def digest(self) -> str:
        """12 hexadecimal digits, which every vote names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        content = {"digest": self.digest, **asdict(self)}
        write_file(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Ballot:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file, or another content.
        """
        try:
            content = read_json(path)
            found = cls(content["against"], content["seed"], [Item(**item) for item in content["items"]])
            if content["digest"] != found.digest:
                raise ValueError("it was changed by hand")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot read the ballot {path} ({error}): votes cannot be counted without it") from error
        return found


def draw_ballot(
    folders: Mapping[str, SampleFolder],
    grids: Mapping[str, SampleFolder],
    against: str,
    pairs: int,
    grid_pairs: int,
    seed: int,
) -> Ballot:
    """Draws comparisons of every model with the baseline, their sides and their order.

    Args:
        folders: condition -> samples, for photorealism and caption; the baseline among them.
        grids: the same for diversity, with 16 samples a caption or more; captions with fewer are left out.
        against: the baseline.
        pairs, grid_pairs: comparisons of each model, for each question that shows pictures or grids.
        seed: of all draws.

    Raises:
        InputError: fewer captions in common than comparisons.
    """
    rng = np.random.default_rng(seed)
    items = []
    for condition in folders:
        if condition == against:
            continue
        for question in QUESTIONS:
            of_grids = question == "diversity"
            chosen, count = (grids, grid_pairs) if of_grids else (folders, pairs)
            need = GRID_SIDE**2 if of_grids else 1
            if count == 0 or condition not in chosen or against not in chosen:
                continue
            ours, theirs = (_samples(chosen[name], need) for name in (condition, against))
            captions = [caption for caption in ours if caption in theirs]
            if len(captions) < count:
                raise InputError(
                    f"{chosen[condition].path} and {chosen[against].path} share {len(captions)} captions with {need}"
                    f" sample{'s' * (need > 1)} or more, {count} comparisons for {question} are asked for: sample more,"
                    " or ask for fewer"
                )
            for k in rng.permutation(len(captions))[:count]:
                caption = captions[k]
                a, b = (sorted(rng.choice(files[caption], need, replace=False).tolist()) for files in (ours, theirs))
                items.append(Item(question, caption, condition, bool(rng.integers(2)), a, b))
    return Ballot(against, seed, [items[k] for k in rng.permutation(len(items))])


def _samples(folder: SampleFolder, need: int) -> dict[str, list[str]]:
    """Caption -> paths of its samples, of captions that have so many."""
    found: dict[str, list[str]] = {}
    for record in folder.records:
        found.setdefault(record["caption"], []).append(str(folder.path / record["file"]))
    return {caption: files for caption, files in found.items() if len(files) >= need}


def page(ballot: Ballot) -> str:
    """One HTML page that needs no other file: asks, keeps answers in the browser, and saves them as votes-*.jsonl."""
    items = []
    for item in ballot.items:
        ours, theirs = _picture(item.ours), _picture(item.theirs)
        left, right = (ours, theirs) if item.left else (theirs, ours)
        caption = None if item.question == "photorealism" else item.caption
        items.append({"question": item.question, "caption": caption, "left": left, "right": right})
    pages = environment()
    template = pages.get_template("ballot.html.j2")
    return template.render(content={"ballot": ballot.digest, "asked": ASKED, "items": items})


def _picture(files: Sequence[str]) -> str:
    """The picture, or the grid of several, as a PNG in a URI."""
    if len(files) == 1:
        content = Path(files[0]).read_bytes()
    else:
        pictures = [_read(file) for file in files]
        side, (width, height) = GRID_SIDE, pictures[0].size
        sheet = Image.new("RGB", (side * (width + 2) - 2, side * (height + 2) - 2), "white")
        for k, picture in enumerate(pictures):
            sheet.paste(picture, (k % side * (width + 2), k // side * (height + 2)))
        content = png(sheet)
    return data_uri(content, "png")


def _read(file: str) -> Image.Image:
    return read_picture(Path(file), Path(file))


def comparisons(ballot: Ballot) -> dict[str, dict[str, int]]:
    """How many comparisons of each model there are, by question."""
    counts: dict[str, dict[str, int]] = {}
    for item in ballot.items:
        of = counts.setdefault(item.condition, dict.fromkeys(QUESTIONS, 0))
        of[item.question] += 1
    return counts
