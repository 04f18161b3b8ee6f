"""Features by several processes are those of one, to the bit; decoding ahead changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.errors import InputError
from eval.judges import features, judges, parts
from eval.judges.features import AttributeExtractor, part_batches
from eval.judges.judges import Judges, PublishedJudges, look


class Scores:
    """A scorer: the mean of a picture times the length of its caption."""

    name, resizing = "lengths", "none"

    def score(self, images, records):
        return images.float().mean((1, 2, 3))[:, None] * torch.tensor([[float(len(r["caption"]))] for r in records])


@pytest.mark.parametrize("world", [2, 3, 9])
def test_parts_are_joined_to_what_one_process_sees(make_folder, classifier, tmp_path, monkeypatch, world):
    monkeypatch.setattr(judges, "BATCH", 5)
    folder = make_folder("a", captions=9, per_caption=2)  # 18 images: three full batches and one of three
    judge = Judges(AttributeExtractor(classifier), published=PublishedJudges(scorers={"lengths": Scores()}))
    alone = look(folder, judge, 5, cache=tmp_path / "one")
    for rank in range(world):
        parts.look_at_part(folder, judge, tmp_path / "several", rank, world)
    parts.join_parts(folder, judge, tmp_path / "several", world)
    assert {p.name for p in (tmp_path / "one").glob("*.npy")} == {p.name for p in (tmp_path / "several").glob("*.npy")}
    monkeypatch.setattr(judges, "seen_by", None)  # nothing is looked at again
    together = look(folder, judge, 5, cache=tmp_path / "several")
    for name in ("classifier", "lengths"):
        np.testing.assert_array_equal(together.features[name], alone.features[name])
    np.testing.assert_array_equal(together.classes, alone.classes)
    assert not list((tmp_path / "several" / parts.PARTS).iterdir())


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), 128), ((512, 512), 128), ((1024, 1024), 32), ((4096, 4096), 2)]
)
def test_a_batch_of_large_pictures_holds_fewer(make_folder, size, expected):
    assert judges.batch_of(replace(make_folder("a"), size=size)) == expected


def test_a_part_lies_on_the_disk_while_it_is_made(make_folder, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "BATCH", 5)
    made = []

    def opened(path, shape, dtype, real=parts.open_features):
        made.append((path.name, shape))
        return real(path, shape, dtype)

    monkeypatch.setattr(parts, "open_features", opened)
    folder = make_folder("a", captions=9, per_caption=2)
    parts.look_at_part(folder, Judges(AttributeExtractor(classifier)), tmp_path, 1, 2)
    assert [shape[0] for _, shape in made] == [8, 8]  # Of 18 pictures in batches of 5, the second and the fourth.
    assert all(name.endswith("-1-of-2.npy.tmp") for name, _ in made)


def test_a_missing_part_is_told(make_folder, classifier, tmp_path):
    folder, judge = make_folder("a"), Judges(AttributeExtractor(classifier))
    parts.look_at_part(folder, judge, tmp_path, 0, 2)
    with pytest.raises(InputError, match="has ended early"):
        parts.join_parts(folder, judge, tmp_path, 2)


def test_batches_are_in_order_and_whole(make_folder):
    folder = make_folder("a", captions=9, per_caption=1)
    found = list(part_batches(folder, 2, 1, 3))
    assert [start for start, _ in found] == [2, 8]
    for start, images in found:
        assert torch.equal(images, folder.images(start, start + 2))
    assert torch.equal(torch.cat(list(features.batches(folder, 4))), folder.images())


class Blank:
    """A folder of 1,000 pictures of one pixel that knows which were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 1000

    def images(self, start, stop):
        self.asked += range(start, stop)
        return torch.arange(start, stop)[:, None, None, None].expand(-1, 3, 1, 1)


@pytest.mark.parametrize(("cores", "size", "waiting"), [(4, 128, 1), (16, 128, 2), (16, 8, 16)])
def test_few_batches_are_decoded_ahead(monkeypatch, cores, size, waiting):
    """As many as keep all threads busy, each with a part of a batch: large pictures would fill the memory."""
    monkeypatch.setattr(features, "threads", lambda: cores)
    folder = Blank()
    found = part_batches(folder, size)
    first = next(found)
    assert first[0] == 0 and torch.equal(first[1][:, 0, 0, 0], torch.arange(size))
    assert max(folder.asked) < (2 + waiting) * size
    rest = [first, *found]
    assert torch.equal(torch.cat([images for _, images in rest])[:, 2, 0, 0], torch.arange(1000))
    assert sorted(folder.asked) == list(range(1000))


class Sees:
    """A network of features: the mean colours."""

    resizing = "none"

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, images):
        return images.float().mean((2, 3))


def test_pictures_are_shown_to_those_that_measure_something_in_them(make_folder, classifier):
    """Real images to no score of samples; pictures without captions to none that reads captions."""
    folder, seen = make_folder("a"), {name: Sees(name) for name in ("dinov2", "hpsv2", "laion_aesthetic")}
    judge = Judges(AttributeExtractor(classifier), published=PublishedJudges(seen, {"vqascore": Scores()}))
    assert set(look(folder, judge).features) == {"classifier", "dinov2", "hpsv2", "laion_aesthetic", "vqascore"}
    assert set(look(folder, judge, scores=False).features) == {"classifier", "dinov2"}
    bare = replace(folder, captioned=False)
    assert set(look(bare, judge).features) == {"classifier", "dinov2", "laion_aesthetic"}
    alone = Judges(published=PublishedJudges({"hpsv2": seen["hpsv2"]}))  # then its features are those of the distance
    assert set(look(bare, alone).features) == set(look(folder, alone, scores=False).features) == {"hpsv2"}
    scorer = Judges(published=PublishedJudges({}, {"vqascore": Scores()}))
    assert set(look(folder, scorer).features) == {"vqascore"} and scorer.main == ""
    with pytest.raises(InputError, match="--metric vqascore gives no features to compare with real images by"):
        scorer.extractor  # noqa: B018


def test_other_captions_are_other_scores_and_the_same_features(make_folder, classifier, tmp_path):
    folder = make_folder("a")
    judge = Judges(AttributeExtractor(classifier), published=PublishedJudges(scorers={"lengths": Scores()}))
    first = look(folder, judge, cache=tmp_path)
    for record in folder.records:
        record["caption"] += " and more"
    second = look(folder, judge, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 4  # features, classes, two scores
    assert (second.features["lengths"] > first.features["lengths"]).all()
    assert "lengths" not in look(folder, judge, cache=tmp_path, scores=False).features
