"""Each further metric of a row against its own function on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.errors import InputError
from eval.further import NAMES, further
from eval.judges.aesthetics import LinearProbe
from eval.judges.features import AttributeExtractor
from eval.judges.judges import Judges, look
from eval.measure import measure, read_reference
from eval.metrics.binding import outcomes
from eval.metrics.bootstrap import Resampler
from eval.metrics.inception_score import inception_score
from eval.metrics.kernel import cmmd, kid
from eval.metrics.precision_recall import manifolds
from eval.metrics.retrieval import r_precision
from eval.metrics.scoring import describe


class FakeCLIP:
    name, resizing = "fake clip", "none"
    tokenizer = len

    def __call__(self, images):
        return images.float().mean((2, 3))

    def encode_text(self, captions):
        g = torch.Generator().manual_seed(0)
        table = {caption: torch.randn(3, generator=g) for caption in sorted(set(captions))}
        return torch.stack([table[caption] for caption in captions])


class FakeInception(FakeCLIP):
    name = "fake inception"

    def logits(self, features):
        return features[:, :2] / 50


def test_every_number(make_folder, classifier):
    probes = {k: LinearProbe(k, "fake clip", np.arange(3.0), 1.0, {}) for k in ("aesthetic", "preference")}
    judges = Judges(AttributeExtractor(classifier), FakeCLIP(), FakeInception(), **probes)
    folder, real = make_folder("a", shift=30), make_folder("real", captions=12, seed=1)
    seen, reference = look(folder, judges), look(real, judges).features
    resampler = Resampler(folder.caption_index, 30, seed=5)
    row = further(folder, seen, judges, reference, resampler)
    x, y = seen.features, reference
    surfaces = manifolds(x["classifier"], y["classifier"])
    texts = judges.clip.encode_text(folder.captions).numpy()
    expected = {
        "kid": kid(x["classifier"], y["classifier"]).value,
        "precision": surfaces.precise.mean(),
        "recall": surfaces.recalled.mean(),
        "density": surfaces.dense.mean(),
        "coverage": surfaces.covered.mean(),
        "cmmd": cmmd(x["clip"], y["clip"]).value,
        "r_precision": r_precision(x["clip"], texts, folder.captions, 8, 5).mean(),
        "inception_score": inception_score(x["inception"][:, :2] / 50).value,
        "aesthetic": probes["aesthetic"](x["clip"]).mean(),
        "preference": probes["preference"](x["clip"]).mean(),
    }
    assert set(expected) == set(NAMES)
    for name, value in expected.items():
        assert row[name]["value"] == pytest.approx(value, rel=1e-6), name
        assert row[name]["low"] <= row[name]["value"] <= row[name]["high"], name


def test_intervals_of_recall_and_coverage_are_over_captions_too(make_folder, classifier):
    """Without the captions they would hold the samples fixed, with the same values."""
    judges = Judges(AttributeExtractor(classifier))
    folder, real = make_folder("a", shift=30), make_folder("real", captions=12, seed=1)
    seen, reference = look(folder, judges), look(real, judges).features
    resampler = Resampler(folder.caption_index, 30, seed=5)
    row = further(folder, seen, judges, reference, resampler)
    x, y = seen.features["classifier"], reference["classifier"]
    expected = manifolds(x, y, captions=resampler.groups).intervals(resampler)
    fixed = manifolds(x, y).intervals(resampler)
    for name in ("recall", "coverage"):
        found = (row[name]["value"], row[name]["low"], row[name]["high"])
        assert found == pytest.approx(tuple(expected[name]))
        assert abs(found[1] - fixed[name].low) > 0.005 and found[0] == pytest.approx(fixed[name].value), name


def test_binding(make_folder, classifier):
    judges, folder = Judges(AttributeExtractor(classifier)), make_folder("a")
    two = {
        "objects": [{"shape": s, "colour": c, "size": None} for s, c in (("circle", "red"), ("square", "blue"))],
        "background": None, "relation": "above", "count": 2,
    }  # fmt: skip
    for record in folder.records[:10]:
        record["mentioned"] = two
    seen = look(folder, judges)
    row = further(
        folder, seen, judges, look(make_folder("r", seed=1), judges).features, Resampler(folder.caption_index, 20, 0)
    )
    words = describe(seen.classes, classifier.attributes)
    expected = outcomes(words, [record["mentioned"] for record in folder.records])["colour and shape"]
    found = row["binding"]["colour and shape"]
    assert found["n"] == 10
    for kind in ("bound", "swapped", "missing"):
        assert found[kind]["value"] == pytest.approx(np.nanmean(expected[kind]))
    assert sum(found[kind]["value"] for kind in ("bound", "swapped", "missing")) == pytest.approx(1)


def test_what_cannot_be_measured_is_none(make_folder):
    judges = Judges(network=FakeCLIP())
    folder = make_folder("a", mentioned=False)
    row = measure(folder, look(folder, judges), judges, read_reference(make_folder("r", seed=1), judges), 10, 0)
    for name in ("cmmd", "r_precision", "inception_score", "aesthetic", "preference", "binding"):
        assert row[name] is None
    assert row["kid"] is not None and row["warnings"] == []


def test_too_few_samples(make_folder):
    judges = Judges(network=FakeCLIP())
    few, real = make_folder("few", captions=5, per_caption=1), make_folder("r", seed=1)
    with pytest.raises(InputError, match="need 6 samples or more, found 5"):
        measure(few, look(few, judges), judges, read_reference(real, judges), 10, 0)


def test_a_singular_covariance_is_said(make_folder, classifier):
    judges = Judges(AttributeExtractor(classifier))
    folder, real = make_folder("a", captions=6, per_caption=1), make_folder("r", seed=1)
    row = measure(folder, look(folder, judges), judges, read_reference(real, judges), 10, 0)
    assert len(row["warnings"]) == 1 and "n = 6 is not above the 6 dimensions" in row["warnings"][0]
