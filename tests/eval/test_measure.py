"""One row of the main table: each number against a computation by hand, and what must not be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.errors import InputError
from eval.judges.aesthetics import LinearProbe
from eval.judges.features import NO_INCEPTION, AttributeExtractor
from eval.judges.judges import Judges, PublishedJudges, look
from eval.measure import check_comparable, content_digest, content_shared, measure, read_reference
from eval.metrics.bootstrap import Resampler
from eval.metrics.diversity import within_caption_distance
from eval.metrics.frechet import FeatureStatistics, frechet_distance
from eval.metrics.frechet_interval import frechet_interval
from eval.metrics.scoring import ATTRIBUTES, describe, score_all
from eval.protocol import captions_digest, check_protocols
from eval.samples.folder import SampleFolder, write_samples
from eval.tables.main import main_table


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


def test_geneval_without_its_metadata_is_said_to_be_left_out(make_folder, classifier):
    class Detector:
        name, resizing = "GenEval", "none"

        def score(self, images, records):
            return torch.tensor([[float("nan") if r.get("geneval") is None else 1.0] for r in records])

    with_it = Judges(AttributeExtractor(classifier), published=PublishedJudges(scorers={"geneval": Detector()}))
    real, folder = make_folder("real", captions=12, seed=1), make_folder("a", condition="glide", mentioned=False)
    reference = read_reference(real, with_it)
    row = measure(folder, look(folder, with_it), with_it, reference, draws=5, seed=0)
    assert row["published"] == {} and any("no picture has GenEval's metadata" in text for text in row["warnings"])
    metadata = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"}
    for record in folder.records:
        record["geneval"] = metadata
    row = measure(folder, look(folder, with_it), with_it, reference, draws=5, seed=0)
    assert row["published"]["geneval_counting"]["value"] == 1.0
    assert not any("GenEval's metadata" in text for text in row["warnings"])


class Lengths:
    """A scorer: how long a picture's caption is."""

    name, resizing = "lengths", "none"

    def score(self, images, records):
        return torch.tensor([[float(len(record["caption"]))] for record in records])


def test_without_real_images_all_is_measured_that_needs_none(make_folder, judges):
    """What is measured is what it is beside real images; distances are null, and a note says so."""
    folder, real = make_folder("a", condition="glide", shift=40), make_folder("real", captions=12, seed=1)
    seen = look(folder, judges)
    alone = measure(folder, seen, judges, None, draws=10, seed=3)
    beside = measure(folder, seen, judges, read_reference(real, judges), draws=10, seed=3)
    for name in ("clip_score", "accuracy", "diversity", "r_precision"):
        assert alone[name] == beside[name] is not None
    for name in ("frechet", "kid", "precision", "recall", "density", "coverage", "cmmd"):
        assert alone[name] is None is not beside[name]
    assert alone["protocol"].keys() == beside["protocol"].keys() and alone["protocol"]["reference_digest"] is None
    table = main_table([alone])
    assert "Frechet \u2193" not in table.columns and any("No real images were given" in note for note in table.notes)
    with pytest.raises(InputError, match="was measured with reference = "):
        check_protocols([alone, beside])
    check_comparable([make_folder("five", captions=5, per_caption=1, seed=2)], None)


def test_a_score_of_pictures_needs_no_features(make_folder):
    folder, judge = make_folder("a"), Judges(published=PublishedJudges(scorers={"vqascore": Lengths()}))
    row = measure(folder, look(folder, judge), judge, None, draws=10, seed=0)
    assert row["published"]["vqascore"]["value"] == 9.0 and row["diversity"] is None  # "caption 0"
    assert row["protocol"]["extractor"] is None and len(main_table([row]).rows) == 1
    with pytest.raises(InputError, match="gives no features to compare with real images"):
        read_reference(make_folder("real", seed=1), judge)


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
    assert protocol["classifier"] == protocol["extractor"] == judges.classifier.name
    assert protocol["resizing"] == "bilinear, antialiased" == judges.classifier.resizing
    assert protocol["captions_digest"] == captions_digest(folder.records) and protocol["caption_protocol"] is None
    assert protocol["size"] == protocol["reference_size"] == [16, 16] and protocol["aesthetic"] is None
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


def measured(folder, real, judges) -> dict:
    return measure(folder, look(folder, judges), judges, read_reference(real, judges), draws=10, seed=0)


def test_samples_of_other_captions_stand_in_no_table_together(make_folder, judges):
    real, folder, other = make_folder("real", captions=12, seed=1), make_folder("a"), make_folder("b", seed=3)
    rows = [measured(folder, real, judges), measured(other, real, judges)]
    assert len(main_table(rows).rows) == 2
    for record in other.records:
        record["caption"] = record["caption"].replace("caption", "something else")
    rows[1] = {**measured(other, real, judges), "condition": "glide"}
    with pytest.raises(InputError, match=r"real was measured with captions_digest = .* and glide with"):
        main_table(rows)
    with pytest.raises(
        InputError, match=r"b and .*a hold samples of different captions \(caption_index 0: 2 of"
    ) as told:
        check_comparable([folder, other], real)
    assert "2 of 'something else 0', 2 of 'caption 0'" in str(told.value) and "apart" in str(told.value)
    uneven = make_folder("c", captions=4, per_caption=4, seed=4)  # as many samples, of fewer captions
    with pytest.raises(InputError, match="caption_index 0: 4 of 'caption 0', 2 of 'caption 0'"):
        check_comparable([folder, uneven], real)
    folder.records[0]["condition"] = "glide"
    with pytest.raises(InputError, match="mixes the conditions glide, real"):
        check_comparable([folder], real)


def test_other_probes_stand_in_no_table_together(make_folder):
    real, folder = make_folder("real", captions=12, seed=1), make_folder("a")
    for kind in ("aesthetic", "preference"):
        probes = [LinearProbe(kind, "fake clip", np.array(w), 0.5, {}) for w in ([1.0, 2, 3], [1.0, 2, 4])]
        rows = [measured(folder, real, Judges(clip=FakeCLIP(), **{kind: probe})) for probe in probes]
        assert rows[0]["protocol"][kind] == probes[0].name != probes[1].name and "fake clip" in probes[0].name
        with pytest.raises(InputError, match=f"measured with {kind} = "):
            check_protocols(rows)
        renamed = LinearProbe(kind, "another folder of clip", probes[0].weights, 0.5, {})
        check_protocols([rows[0], measured(folder, real, Judges(clip=FakeCLIP(), **{kind: renamed}))])
        assert LinearProbe(kind, "fake clip", probes[0].weights, 0.6, {}).name != probes[0].name


def test_fid_alone(make_folder):
    """Inception as the only judge: FID, and what is of features, in its features."""
    judges = Judges(inception=FakeCLIP())
    folder, real = make_folder("a"), make_folder("real", seed=1)
    row = measured(folder, real, judges)
    statistics = [FeatureStatistics.of(f.images().float().mean((2, 3)).numpy()) for f in (folder, real)]
    assert row["fid"] == row["frechet"] and row["fid"]["value"] == pytest.approx(
        frechet_distance(*statistics), rel=1e-5
    )
    assert row["clip_score"] is None and row["accuracy"] is None and row["kid"] is not None
    assert row["protocol"]["extractor"] == row["protocol"]["inception"] == "fake clip"
    assert main_table([row]).columns[:4] == ["condition", "n", "Frechet ↓", "FID ↓"]


def test_copies_are_told(make_folder, judges, tmp_path):
    real, folder = make_folder("real", captions=12, seed=1), make_folder("a")
    assert not any("copies" in text for text in measured(folder, real, judges)["warnings"])
    same = write_samples(tmp_path / "same", folder.images(0, 1).repeat(16, 1, 1, 1), folder.records)
    told = "real: 15 of 16 images are copies of others of this folder, byte for byte."
    row = measured(same, real, judges)
    assert told in row["warnings"] and told in main_table([row]).notes
    for record in same.records:
        del record["sha256"]  # folders that others wrote have none
    assert told in measured(same, real, judges)["warnings"]


def test_samples_of_one_caption_have_no_interval_and_that_is_told(make_folder, judges):
    real = make_folder("real", captions=12, seed=1)
    told = "real: all samples are of one caption, over which there is no interval: do not read one."
    assert told in measured(make_folder("one", captions=1, per_caption=12), real, judges)["warnings"]
    assert told not in measured(make_folder("two", captions=2, per_caption=6), real, judges)["warnings"]


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
    with pytest.raises(InputError, match="give one of"):
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


def test_how_the_pictures_were_drawn_is_kept(make_folder, judges):
    real, folder = make_folder("real", captions=12, seed=1), make_folder("a", condition="glide")
    for record in folder.records:
        record["sampler"] = {"decoder": "ddim"}
    row = measure(folder, look(folder, judges), judges, read_reference(real, judges), draws=5, seed=3)
    assert row["drawn"] == {"decoder": {"sampler": "ddim"}} and "drawn" not in row["protocol"]
