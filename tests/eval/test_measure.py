"""One row of the main table: each number against a computation by hand, and what must not be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.bootstrap import Resampler
from eval.diversity import within_caption_distance
from eval.errors import InputError
from eval.features import NO_INCEPTION, AttributeExtractor
from eval.frechet import FeatureStatistics, frechet_distance, frechet_interval
from eval.judges import Judges, look
from eval.measure import check_comparable, content_digest, content_shared, measure, read_reference
from eval.samples import SampleFolder
from eval.scoring import ATTRIBUTES, describe, score_all


class FakeCLIP:
    """Image features are mean colours; each caption's text features point along one axis by its length."""

    name, resizing = "fake clip", "none"

    def __init__(self, tokenizer=len):
        self.tokenizer = tokenizer

    def __call__(self, images):
        return images.float().mean((2, 3))

    def encode_text(self, captions):
        return torch.eye(3)[[len(caption) % 3 for caption in captions]]


@pytest.fixture
def judges(classifier) -> Judges:
    return Judges(AttributeExtractor(classifier), FakeCLIP())


def test_every_number(make_folder, judges):
    real, folder = make_folder("real", captions=12, seed=1), make_folder("a", condition="glide", shift=40)
    reference, seen = read_reference(real, judges, batch_size=5), look(folder, judges, batch_size=3)
    row = measure(folder, seen, judges, reference, draws=50, seed=3)

    features = judges.classifier(folder.images()).numpy()
    np.testing.assert_allclose(seen.features["classifier"], features, rtol=1e-4, atol=1e-5)
    resampler, real_features = Resampler(folder.caption_index, 50, 3), judges.classifier(real.images()).numpy()
    expected = frechet_interval(features, FeatureStatistics.of(real_features), resampler)
    assert row["frechet"]["value"] == pytest.approx(expected.value, rel=1e-3)
    assert row["frechet"]["low"] == pytest.approx(expected.low, rel=1e-2)

    colours = folder.images().double().mean((2, 3)).numpy()
    cosines = (colours / np.linalg.norm(colours, axis=1, keepdims=True))[:, len("caption 0") % 3]
    assert row["clip_score"]["value"] == pytest.approx(cosines.mean(), rel=1e-5)
    assert row["diversity"]["value"] == pytest.approx(
        within_caption_distance(features, folder.caption_index).mean(), rel=1e-3
    )
    words = describe(judges.classifier.look(folder.images()).classes.numpy(), judges.classifier.classifier.attributes)
    scores = score_all(words, [record["mentioned"] for record in folder.records])
    for name in ATTRIBUTES:
        known = scores[name][~np.isnan(scores[name])]
        if len(known):
            assert row["accuracy"][name]["value"] == pytest.approx(known.mean())
            assert row["accuracy"][name]["n"] == len(known)
        else:
            assert row["accuracy"][name] is None
    assert row["accuracy"]["shape"]["n"] == 8 and row["accuracy"]["relation"] is None
    assert row["condition"] == "glide" and row["n"] == 16 and row["fid"] is None
    for interval in (row["frechet"], row["clip_score"], row["diversity"]):
        assert interval["low"] <= interval["value"] <= interval["high"]


def test_protocol(make_folder, judges):
    real, folder = make_folder("real", captions=12, seed=1), make_folder("a", captions=4, per_caption=3)
    reference = read_reference(real, judges)
    protocol = measure(folder, look(folder, judges), judges, reference, draws=10, seed=3)["protocol"]
    assert protocol["n"] == 12 and protocol["captions"] == 4 and protocol["per_caption"] == 3
    assert protocol["extractor"].startswith("attribute classifier ") and protocol["extractor_dim"] == 6
    assert protocol["clip"] == "fake clip" and protocol["inception"] == NO_INCEPTION
    assert protocol["reference_n"] == 24 and protocol["reference_digest"] == content_digest(real)
    assert protocol["bootstrap"] == 10 and protocol["seed"] == 3 and protocol["level"] == 0.95


def test_without_ground_truth_and_classifier(make_folder):
    judges = Judges(clip=FakeCLIP())
    real, folder = make_folder("real", seed=1, mentioned=False), make_folder("a", mentioned=False, per_caption=1)
    row = measure(folder, look(folder, judges), judges, read_reference(real, judges), draws=10, seed=0)
    assert row["accuracy"] is None and row["diversity"] is None
    statistics = [FeatureStatistics.of(f.images().float().mean((2, 3)).numpy()) for f in (folder, real)]
    assert row["frechet"]["value"] == pytest.approx(frechet_distance(*statistics), rel=1e-5)
    assert row["clip_score"] is not None and row["protocol"]["extractor"] == "fake clip"


def test_ground_truth_of_some(make_folder, judges):
    folder = make_folder("a")
    for record in folder.records[4:]:
        del record["mentioned"]
    row = measure(folder, look(folder, judges), judges, read_reference(make_folder("r", seed=1), judges), 10, 0)
    assert row["accuracy"]["colour"]["n"] == 4


def test_fid_when_the_weights_are_there(make_folder, classifier):
    judges = Judges(AttributeExtractor(classifier), inception=FakeCLIP())
    real, folder = make_folder("real", seed=1), make_folder("a")
    row = measure(folder, look(folder, judges), judges, read_reference(real, judges), draws=10, seed=0)
    statistics = [FeatureStatistics.of(f.images().float().mean((2, 3)).numpy()) for f in (folder, real)]
    assert row["fid"]["value"] == pytest.approx(frechet_distance(*statistics), rel=1e-5)
    assert row["protocol"]["inception"] == "fake clip" and row["clip_score"] is None


def test_progress_is_reported(make_folder, judges):
    done: list[int] = []
    look(make_folder("a"), judges, batch_size=5, tick=done.append)
    assert done == [5, 5, 5, 1]


def test_what_cannot_be_compared(make_folder, judges, tmp_path):
    real, few, many = make_folder("real", seed=1), make_folder("few", captions=3), make_folder("many", captions=9)
    check_comparable([few], real)
    with pytest.raises(InputError, match=r"many holds 18 samples and .*few 6: Frechet distances of different counts"):
        check_comparable([few, many], real)
    with pytest.raises(InputError, match="shares 16 of its 16 images with the reference"):
        check_comparable([make_folder("copy", seed=1)], real)
    with pytest.raises(InputError, match=r"need 6 samples or more, .*five holds 5"):
        check_comparable([make_folder("five", captions=5, per_caption=1, seed=2)], real)
    with pytest.raises(InputError, match=r"need 6 real images or more, .*five holds 5"):
        check_comparable([few], SampleFolder.open(tmp_path / "five"))
    with pytest.raises(InputError, match=r"small holds images of 8x8 pixels, the reference .*real of 16x16: bring"):
        check_comparable([few, make_folder("small", captions=3, seed=2, size=8)], real)
    with pytest.raises(InputError, match="holds 1 image"):
        read_reference(make_folder("one_real", captions=1, per_caption=1, seed=4), judges)
    with pytest.raises(InputError, match="give --classifier, --clip or both"):
        Judges()


def test_images_shared_with_the_reference_are_counted(make_folder):
    real, half = make_folder("real", captions=4, seed=1), make_folder("half", captions=8, seed=1)
    assert content_shared(half, real) == len({r["sha256"] for r in half.records} & {r["sha256"] for r in real.records})
    assert content_shared(real, real) == 8 and content_shared(make_folder("other", seed=2), real) == 0


def test_digest(make_folder):
    a, same, other = make_folder("a"), make_folder("same"), make_folder("other", seed=1)
    assert content_digest(a) == content_digest(same) != content_digest(other)
    for record in same.records:
        del record["sha256"]  # folders that others wrote have none
    assert content_digest(a) == content_digest(same)
    same.records[0]["caption"] = "another"
    assert content_digest(a) != content_digest(same)
